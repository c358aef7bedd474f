"""Evaluations as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sayo.evaluation.layers import advice


def show(model: str, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the figures of every task, then which layer tells right from wrong answers where attention was read."""
    console = Console()
    if not console.is_terminal:
        console.width = 130  # a file or a pipe has no edge to break the lines at
    console.print(task_table(model, summaries))
    looked = {task: summary for task, summary in summaries.items() if summary["tas"] is not None}
    if looked:
        console.print(attention_table(looked))
    for task, summary in looked.items():
        if summary["tas_by_layer"]:
            console.print(layer_table(task, summary["tas_by_layer"]))
            console.print(advice(summary["tas_by_layer"]), highlight=False)


def task_table(model: str, summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Accuracy with its interval, by task and type of question; what could not be scored."""
    table = Table("questions", "n", "accuracy", "no answer", "failed", "length", title=model)
    for name, part in _parts(summaries):
        table.add_row(
            name,
            str(part["num_questions"]),
            _number(part["accuracy"]) + interval(part["accuracy_interval"]),
            str(part["no_answer"]),
            str(sum(part["failed"].values())),
            _number(part["mean_length"]),
        )
    return table


def attention_table(summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Where the answers looked, with intervals, and how TAS goes with being right."""
    names = {"tas": "TAS", "rrar": "RRAR", "vas": "VAS", "look_back_lift": "look-back lift"}
    parts = _parts(summaries)
    names = {key: title for key, title in names.items() if any(part[key] is not None for _, part in parts)}
    table = Table("questions", *names.values(), "AUC of TAS", "r of TAS", title="attention on the region")
    for name, part in parts:
        link = part["tas_and_correctness"] or {}
        values = [_number(part[key]) + interval(part["intervals"].get(key)) for key in names]
        links = [_number(link.get(key)) + interval(link.get(f"{key}_interval")) for key in ("auc", "point_biserial")]
        table.add_row(name, *values, *links)
    return table


def layer_table(task: str, figures: Mapping[str, Any]) -> Table:
    """TAS of every layer alone, and how it goes with being right."""
    table = Table("layer", "TAS", "right answers", "wrong answers", "AUC", title=f"{task}: TAS by layer")
    for row in figures["by_layer"]:
        table.add_row(
            str(row["layer"]),
            _number(row["tas"]) + interval(row["interval"]),
            _number(row["mean_right"]),
            _number(row["mean_wrong"]),
            _number(row["auc"]) + interval(row["auc_interval"]),
        )
    return table


def comparison_table(a: Path, b: Path, found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Result of `compare.compare`: accuracy and TAS of both, the paired difference and its test."""
    table = Table("task", "n", f"A: {a.name}", f"B: {b.name}", "B - A", "better/worse", "p", title=f"{b} against {a}")
    for task, values in found.items():
        rows = [(task, values["accuracy"]), (f"{task}: TAS", values["tas"])]
        rows += [(f"  {kind}", part) for kind, part in values["by_type"].items() if len(values["by_type"]) > 1]
        for name, part in rows:
            if part is not None:
                means = (f"{part['mean_a']:.3f}", f"{part['mean_b']:.3f}")
                change = f"{part['difference']:+.3f}{interval(part['interval'])}"
                counts = f"{part['better']}/{part['worse']}"
                table.add_row(name, str(part["num_questions"]), *means, change, counts, f"{part['p_value']:.2g}")
    return table


def interval(values: list[float] | None) -> str:
    """` [low, high]`, or nothing."""
    return f" [{values[0]:.3g}, {values[1]:.3g}]" if values else ""


def _parts(summaries: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Every task, followed by its types of questions where there are several."""
    parts = []
    for task, summary in summaries.items():
        kinds = summary["by_type"] if len(summary["by_type"]) > 1 else {}
        parts += [(task, summary), *((f"  {kind}", figures) for kind, figures in kinds.items())]
    return parts


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
