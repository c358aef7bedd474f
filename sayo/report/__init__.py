"""One self-contained HTML page about some runs: what was trained, how it went, where the policy looks now."""

from sayo.report.page import ReportError, build_report

__all__ = ["ReportError", "build_report"]
