"""The numbers of the page: held-out questions before and after, and arms of an ablation over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sayo.report.charts import Chart, ablation_chart
from sayo.report.evaluation import Evaluation, paired_change
from sayo.report.run import Run, flatten

METRICS = (  # key of a summary, heading, is it a share (shown in percent)?
    ("accuracy", "Accuracy", True),
    ("tas", "TAS", False),
    ("region_score", "Region score", False),
    ("region_ratio", "Attention on the region", False),
    ("mean_length", "Tokens", False),
)
ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """Headings and rows of text; `trend` gives each cell a class: `"up"`, `"down"` or `""`."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    trends: tuple[tuple[str, ...], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Tile:
    """A headline number: `before` -> `after`."""

    label: str
    before: str
    after: str
    change: str
    trend: str


def held_out_table(run: Run, several: bool) -> Table | None:
    """All questions and each question type, before and after; None without any evaluation."""
    summaries = [e.summary if e is not None else {} for e in (run.before, run.after)]
    if not any(summaries):
        return None
    metrics = [m for m in METRICS if any(_number(s.get(m[0])) is not None for s in summaries)]
    kinds = list(dict.fromkeys(kind for s in summaries for kind in s.get("by_type") or {}))
    rows, trends = [], []
    for kind in (None, *kinds):
        pair = [s if kind is None else (s.get("by_type") or {}).get(kind) or {} for s in summaries]
        count = next((s["num_questions"] for s in reversed(pair) if s.get("num_questions") is not None), ABSENT)
        row, trend = ["All questions" if kind is None else kind, str(count)], ["", ""]
        for key, _, percent in metrics:
            first, last = (_number(s.get(key)) for s in pair)
            absent = first is None and last is None
            row.append(ABSENT if absent else f"{_show(first, percent)} → {_show(last, percent)}")
            trend.append(_trend(first, last) if key != "mean_length" else "")
        rows.append(tuple(row))
        trends.append(tuple(trend))
    headings = ("Questions", "Number", *(title for _, title, _ in metrics))
    return Table(run.name if several else "", headings, tuple(rows), tuple(trends), _interval_note(run))


def reward_table(runs: Sequence[Run]) -> Table | None:
    """Every reward function with its weight, both ends of training and its share of the gradient; None without any."""
    rows = []
    for run in runs:
        weights = {name: entry.get("weight", 1.0) for name, entry in (run.recipe.get("rewards") or {}).items()}
        for part in run.reward_parts():
            means, share, same = (
                run.series(key)[1]
                for key in (f"rewards/{part}/mean", f"gradient_share/{part}", f"rewards/{part}/frac_zero_std")
            )
            if not len(means):
                continue
            tenth = max(1, len(means) // 10)
            first, last = float(means[:tenth].mean()), float(means[-tenth:].mean())
            shown = [_show(float(series.mean()) if len(series) else None, percent=True) for series in (share, same)]
            weight = _number(weights.get(part))
            name = [run.name] if len(runs) > 1 else []
            rows.append((*name, part, _show(weight, False), f"{_show(first, False)} → {_show(last, False)}", *shown))
    headings = ("Reward", "Weight", "First → last tenth of training", "Share of the gradient", "Groups without spread")
    note = "The last two are means over training."
    if all(row[-2:] == (ABSENT, ABSENT) for row in rows):  # a run of an older version, or one reward
        headings, note, rows = headings[:-2], "", [row[:-2] for row in rows]
    headings = ("Run", *headings) if len(runs) > 1 else headings
    return Table("", headings, tuple(rows), note=note) if rows else None


def overview_table(policies: dict[str, Evaluation | None]) -> Table | None:
    """One row per policy, over all questions, with 95% intervals; None without any evaluation."""
    summaries = {name: e.summary for name, e in policies.items() if e is not None and e.summary}
    # The region score is TAS in other units; with their intervals the columns must fit beside each other.
    metrics = [m for m in METRICS if any(_number(s.get(m[0])) is not None for s in summaries.values())]
    metrics = [m for m in metrics if m[0] != "region_score"]
    rows = [
        (
            name,
            str(s.get("num_questions", ABSENT)),
            *(_show(_number(s.get(key)), percent) + _interval(s, key, percent) for key, _, percent in metrics),
        )
        for name, s in summaries.items()
    ]
    headings = ("Policy", "Questions", *(title for _, title, _ in metrics))
    return Table("", headings, tuple(rows)) if rows else None


def _interval(summary: dict[str, Any], key: str, percent: bool) -> str:
    """` [low, high]` of a summary's figure; nothing where it has none."""
    names = {"mean_length": "length"}
    found = summary.get("accuracy_interval") if key == "accuracy" else None
    found = found or (summary.get("intervals") or {}).get(names.get(key, key))
    ends = [_number(end) for end in found] if isinstance(found, list) else []
    if len(ends) != 2 or None in ends:
        return ""
    low, high = (f"{100 * end:.1f}" if percent else f"{end:.3g}" for end in ends)
    return f" [{low}, {high}]"


def _interval_note(run: Run) -> str:
    """The change with its interval, where both evaluations hold the answers question by question."""
    if run.before is None or run.after is None:
        return ""
    parts = []
    accuracy = paired_change(run.before, run.after, "correct")
    if accuracy is not None:
        parts.append(f"accuracy {100 * accuracy[0]:+.1f} ± {100 * accuracy[1]:.1f} points")
    tas = paired_change(run.before, run.after, "tas")
    if tas is not None:
        parts.append(f"TAS {tas[0]:+.3f} ± {tas[1]:.3f}")
    return f"Change with its 95% interval, paired over questions: {', '.join(parts)}." if parts else ""


def tiles(run: Run) -> list[Tile]:
    """Accuracy, TAS and length at a glance, from the held-out questions or else from both ends of training."""
    before, after = (e.summary if e is not None else {} for e in (run.before, run.after))
    found = []
    for key, label, percent in METRICS:
        first, last = _number(before.get(key)), _number(after.get(key))
        if key not in ("accuracy", "tas", "mean_length") or (first is None and last is None):
            continue
        change = ""
        if first is not None and last is not None:
            change = f"{100 * (last - first):+.1f} points" if percent else f"{last - first:+.3g}"
            change = "no change" if first == last else change
        trend = _trend(first, last) if key != "mean_length" else ""
        found.append(Tile(f"{label}, held out", _show(first, percent), _show(last, percent), change, trend))
    return found


def load_ablation(path: Path) -> tuple[Table, list[Chart]]:
    """Mean and standard deviation over seeds of every metric of an ablation file, and a chart of each.

    Raises:
        ValueError: the file is not `{"rows": [{"arm": ..., "seeds": [...], <metric>: [...]}, ...]}`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content["rows"]
        arms = [str(row["arm"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is no ablation file ({{"rows": [{{"arm": ..., "seeds": [...]}}]}}): {error}'
        ) from error
    metrics = list(dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, list) and k != "seeds"))
    percent = {metric: metric == "accuracy" for metric in metrics}
    table = [
        (arm, *(_mean_and_spread(row.get(m), percent[m]) for m in metrics))
        for arm, row in zip(arms, rows, strict=True)
    ]
    counts = [len(row.get("seeds") or []) for row in rows]
    seeds = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}" if counts else "0"
    headings = ("Arm", *(_title(metric) for metric in metrics))
    meta = "; ".join(f"{key}: {value}" for key, value in flatten(content.get("meta") or {}).items())
    note = f"Mean ± standard deviation over seeds ({seeds} per arm)." + (f" {meta}." if meta else "")
    charts = []
    for metric in metrics:
        values = [_numbers(row.get(metric)) for row in rows]
        if metric in ("accuracy", "tas") and all(values):
            charts.append(ablation_chart(_title(metric), arms, values))
    return Table("", headings, tuple(table), note=note), charts


def _title(metric: str) -> str:
    titles = {"vas": "VAS", **{key: title for key, title, _ in METRICS}}
    return titles.get(metric, metric.replace("_", " ").capitalize())


def _mean_and_spread(values: Any, percent: bool) -> str:
    numbers = _numbers(values)
    if not numbers:
        return ABSENT
    scale = 100 if percent else 1
    digits = 1 if percent else 3
    text = f"{scale * np.mean(numbers):.{digits}f}"
    if len(numbers) > 1:
        text += f" ± {scale * np.std(numbers, ddof=1):.{digits}f}"
    dropped = len(values) - len(numbers)
    return text + ("%" if percent else "") + (f" ({dropped} missing)" if dropped else "")


def _numbers(values: Any) -> list[float]:
    numbers = (_number(value) for value in (values or []))
    return [number for number in numbers if number is not None]


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if is_number else None


def _show(value: float | None, percent: bool) -> str:
    if value is None:
        return ABSENT
    return f"{100 * value:.1f}%" if percent else f"{value:.3g}"


def _trend(first: float | None, last: float | None) -> str:
    if first is None or last is None or first == last:
        return ""
    return "up" if last > first else "down"
