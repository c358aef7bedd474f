"""The numbers of the page: held-out questions before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sayo.viz.report.runs import HeldOut, Run, is_number, numbers

METRICS = {  # key of a summary: heading, is it a share (shown in percent)?
    "accuracy": ("Accuracy", True),
    "tas": ("TAS", False),
    "region_ratio": ("Attention on the region", False),
    "mean_length": ("Tokens", False),
}
ABSENT = "–"


class Trend(str):
    """Text of a cell with its class: `"up"`, `"down"` or `""`."""

    trend = ""


@dataclass(frozen=True)
class Table:
    """Headings and rows of text."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


def overview_table(policies: Mapping[str, HeldOut]) -> Table | None:
    """One row per policy, over all questions, with 95% intervals; None without any evaluation."""
    summaries = {name: e.summary for name, e in policies.items() if e.summary}
    metrics = _known_metrics(list(summaries.values()))
    rows = [
        (name, str(s.get("num_questions", ABSENT)), *(_show(s.get(key), key) + _interval(s, key) for key in metrics))
        for name, s in summaries.items()
    ]
    return Table(("Policy", "Questions", *(METRICS[key][0] for key in metrics)), rows) if rows else None


def held_out_table(run: Run) -> Table | None:
    """All questions and each question type, before and after; None without any evaluation."""
    summaries = [e.summary if e is not None else {} for e in (run.before, run.after)]
    metrics = _known_metrics(summaries)
    kinds = list(dict.fromkeys(kind for s in summaries for kind in s.get("by_type") or {}))
    rows = []
    for kind in (None, *kinds):
        pair = [s if kind is None else (s.get("by_type") or {}).get(kind) or {} for s in summaries]
        counts = [s["num_questions"] for s in pair if s.get("num_questions") is not None]
        name = "All questions" if kind is None else kind
        rows.append((name, str(counts[-1]) if counts else ABSENT, *(_change(*pair, key) for key in metrics)))
    headings = ("Questions", "Number", *(METRICS[key][0] for key in metrics))
    return Table(headings, rows, run.name) if any(summaries) else None


def _known_metrics(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [key for key in METRICS if any(is_number(summary.get(key)) for summary in summaries)]


def _show(value: Any, key: str = "") -> str:
    """A number as text, in percent for a metric that is a share."""
    if not is_number(value):
        return ABSENT
    return f"{100 * value:.1f}%" if METRICS.get(key, ("", False))[1] else f"{value:.3g}"


def _change(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> Trend:
    first, last = before.get(key), after.get(key)
    cell = Trend(f"{_show(first, key)} → {_show(last, key)}" if is_number(first) or is_number(last) else ABSENT)
    if is_number(first) and is_number(last) and first != last and key != "mean_length":
        cell.trend = "up" if last > first else "down"
    return cell


def _interval(summary: Mapping[str, Any], key: str) -> str:
    """` [low, high]` of a summary's figure; nothing where it has none."""
    intervals = {**(summary.get("intervals") or {}), "accuracy": summary.get("accuracy_interval")}
    ends = numbers(intervals.get({"mean_length": "length"}.get(key, key)))
    if len(ends) != 2:
        return ""
    low, high = (_show(end, key).rstrip("%") for end in ends)
    return f" [{low}, {high}]"
