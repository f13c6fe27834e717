"""The process: `python -m ci_plugins`, and what the console script calls."""

import gc
import sys

#: New objects after which the collector looks for cycles. Nearly nothing here is in cycles and a build is short: with
#: Python's 700 a tenth of a small build is spent on looking.
_YOUNG = 100_000


def run() -> int:
    """`cli.main` as a whole process: it has memory to spare and ends soon."""
    gc.set_threshold(_YOUNG)
    from ci_plugins.cli import main  # the collector would look at all that this loads, again and again

    code = main()
    gc.freeze()  # the process gives its memory back whole: at its end nothing is looked through once more
    return code


if __name__ == "__main__":
    sys.exit(run())
