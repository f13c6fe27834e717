"""python -m ci_plugins"""

import sys

from ci_plugins.cli import main

sys.exit(main())
