"""Options: each declared once in `declared.py`; flags, variables, file keys, docs and schema are derived from that."""

from ci_plugins.options.settings import BuildOptions, Output, ServeOptions

__all__ = ["BuildOptions", "Output", "ServeOptions"]
