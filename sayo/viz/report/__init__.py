"""One self-contained HTML page about some runs: what was trained, how it went, where the policy looks now."""

from sayo.viz.report.page import build_report
from sayo.viz.report.runs import ReportError

__all__ = ["ReportError", "build_report"]
