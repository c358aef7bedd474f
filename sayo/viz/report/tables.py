"""The numbers of the page: what every policy reached on the held-out questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sayo.viz.report.runs import HeldOut, is_number, numbers

METRICS = {  # key of a summary: heading, is it a share (shown in percent)?
    "accuracy": ("Accuracy", True),
    "tas": ("TAS", False),
    "region_ratio": ("Attention on the region", False),
    "mean_length": ("Tokens", False),
}
ABSENT = "–"


class Table(NamedTuple):
    """Headings and rows of text."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]


def held_out_tables(policies: Mapping[str, HeldOut]) -> list[Table]:
    """One row per policy, with 95% intervals: over all questions, and over each type of question."""
    summaries = {name: evaluation.summary for name, evaluation in policies.items() if evaluation.summary}
    metrics = [key for key in METRICS if any(is_number(summary.get(key)) for summary in summaries.values())]
    headings = ("Policy", "Questions", *(METRICS[key][0] for key in metrics))
    kinds = dict.fromkeys(kind for summary in summaries.values() for kind in summary.get("by_type") or {})
    tables = []
    for kind in ("", *kinds):
        figures = {name: (s.get("by_type") or {}).get(kind, {}) if kind else s for name, s in summaries.items()}
        rows = [
            (name, str(values.get("num_questions", ABSENT)), *(_cell(values, key) for key in metrics))
            for name, values in figures.items()
        ]
        tables.append(Table(kind or "all questions", headings, rows))
    return tables if summaries else []


def _cell(summary: Mapping[str, Any], key: str) -> str:
    """A figure with its interval, where it has one; in percent for a metric that is a share."""
    template = "{:.1%}" if METRICS[key][1] else "{:.3g}"
    if not is_number(summary.get(key)):
        return ABSENT
    intervals = {**(summary.get("intervals") or {}), "accuracy": summary.get("accuracy_interval")}
    ends = numbers(intervals.get("length" if key == "mean_length" else key))
    low_high = f" [{', '.join(template.format(end).rstrip('%') for end in ends)}]" if len(ends) == 2 else ""
    return template.format(summary[key]) + low_high
