"""Options: each declared once in `declared.py`; flags, variables, file keys, docs and schema are derived from that."""

from ci_plugins.options.detected import Detected
from ci_plugins.options.help import help_text
from ci_plugins.options.model import Origin, Source
from ci_plugins.options.parse import Invocation, parse
from ci_plugins.options.settings import BuildOptions, CacheOptions, IndexOptions, Output, PlanOptions, ServeOptions

__all__ = [
    "BuildOptions",
    "CacheOptions",
    "Detected",
    "IndexOptions",
    "Invocation",
    "Origin",
    "Output",
    "PlanOptions",
    "ServeOptions",
    "Source",
    "help_text",
    "parse",
]
