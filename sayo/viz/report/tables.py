"""The numbers of the page: what every policy reached on held-out questions, layer by layer, and arms over seeds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sayo.evaluation.summary import advice
from sayo.evaluation.tables import layer_rows
from sayo.viz.report.runs import HeldOut, ReportError, finite_numbers, is_number

METRICS = {  # key of a summary: heading, is it a share (shown in percent)?
    "accuracy": ("Accuracy", True),
    "tas": ("TAS", False),
    "region_ratio": ("Attention on the region", False),
    "energy": ("Share of attention in the region", True),
    "use": ("Accuracy lost without the region", False),
    "mean_length": ("Tokens", False),
}
ABSENT, START = "–", "before training"


class Table(NamedTuple):
    """Headings and rows of text, and a note below them."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def headlines(groups: Mapping[str, Mapping[str, HeldOut]]) -> list[str]:
    """What came of each run, in a line: accuracy and TAS before and after, as far as they are known."""
    lines = []
    for name, policies in groups.items():
        start = policies.get(START)
        for label, evaluation in policies.items():
            if evaluation is start:
                continue
            changes = []
            for key in ("accuracy", "tas"):
                known = [e.summary.get(key) for e in (start, evaluation) if e is not None]
                shown = [_show(value, is_share=METRICS[key][1]) for value in known if is_number(value)]
                changes += [f"{METRICS[key][0]} {' → '.join(shown)}"] if shown else []
            count = evaluation.summary.get("num_questions")
            if changes:
                who = ": ".join(filter(None, [name, label if label != "after training" else ""]))
                on = f" on {count} held-out questions" if is_number(count) else ""
                lines.append(f"{who}: {', '.join(changes)}{on}" if who else f"{', '.join(changes)}{on}")
    return lines


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


def layer_tables(policies: Mapping[str, HeldOut]) -> list[Table]:
    """For each policy whose layers were read one by one: the TAS of each, and how well it tells right from wrong."""
    headings = ("Layer", "TAS", "Right answers", "Wrong answers", "AUC")
    known = {name: evaluation.summary.get("tas_by_layer") for name, evaluation in policies.items()}
    return [
        Table(f"TAS by layer, {name}", headings, layer_rows(figures), advice(figures))
        for name, figures in known.items()
        if figures
    ]


def ablation_table(path: Path) -> Table:
    """Arms of an ablation: mean ± standard deviation over seeds of every metric.

    ReportError if the file is not `{"rows": [{"arm": name, "seeds": [...], <metric>: [one number per seed]}]}`.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        arms = {
            str(row["arm"]): {key: values for key, values in row.items() if isinstance(values, list)} for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(
            f'{path} is not an ablation ({{"rows": [{{"arm": ..., "seeds": [...]}}]}}): {error!r}'
        ) from None
    metrics = list(dict.fromkeys(key for values in arms.values() for key in values if key != "seeds"))
    titles = {"vas": "VAS", **{key: title for key, (title, _) in METRICS.items()}}
    headings = ("Arm", "Seeds", *(titles.get(key, key.replace("_", " ").capitalize()) for key in metrics))
    lines = [
        (arm, str(len(values.get("seeds", []))), *(_mean_and_spread(values.get(key), key) for key in metrics))
        for arm, values in arms.items()
    ]
    return Table("", headings, lines, "Mean ± standard deviation over seeds.")


def _cell(summary: Mapping[str, Any], key: str) -> str:
    """A figure of `METRICS` with its interval, where it has one."""
    intervals = {**(summary.get("intervals") or {}), "accuracy": summary.get("accuracy_interval")}
    return _show(summary.get(key), intervals.get("length" if key == "mean_length" else key), METRICS[key][1])


def _show(value: Any, interval: Sequence[float] | None = None, is_share: bool = False) -> str:
    if not is_number(value):
        return ABSENT
    template, ends = "{:.1%}" if is_share else "{:.3g}", finite_numbers(interval)
    low_high = f" [{', '.join(template.format(end).rstrip('%') for end in ends)}]" if len(ends) == 2 else ""
    return template.format(value) + low_high


def _mean_and_spread(values: Any, key: str) -> str:
    known, is_share = finite_numbers(values), METRICS.get(key, ("", False))[1]
    if not known:
        return ABSENT
    mean = _show(np.mean(known), is_share=is_share)
    if len(known) == 1:
        return mean
    spread = np.std(known, ddof=1)
    return f"{mean} ± {100 * spread:.1f}" if is_share else f"{mean} ± {spread:.2g}"
