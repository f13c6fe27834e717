"""Reports: spans → timeline → terminal, JSON, Markdown, HTML. One renderer a format."""

from ci_plugins.report.derive import derive
from ci_plugins.report.timeline import Layer, Phase, Step, Timeline, Transfer, Wait

__all__ = ["Layer", "Phase", "Step", "Timeline", "Transfer", "Wait", "derive"]
