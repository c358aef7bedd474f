"""Evaluations as tables in the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from sayo.evaluation.summary import advice

FAITHFULNESS_NAMES = {
    "pointing": "most attended token in the region",
    "pointing_sink_free": "  without sinks",
    "energy": "share of the image's attention in the region",
    "energy_sink_free": "  without sinks",
    "region_share": "region's share of the visual tokens",
    "insertion": "insertion (area under the curve)",
    "deletion": "deletion (area under the curve)",
    "accuracy_other_blank": "accuracy, as large an area elsewhere blank",
    "accuracy_region_blank": "accuracy, the region blank",
    "use": "difference: use of the region",
}
ATTENTION_NAMES = {"tas": "TAS", "rrar": "RRAR", "vas": "VAS", "look_back_lift": "look-back lift"}


def print_summary(model: str, summary: Mapping[str, Any]) -> None:
    """The figures, in all and by type of question, then which layer tells right from wrong answers, where known."""
    console = wide_console()
    kinds = summary["by_type"] if len(summary["by_type"]) > 1 else {}
    parts = {"all": summary, **{f"  {kind}": part for kind, part in kinds.items()}}
    several = [name for name in ("pass_at", "majority_at") if summary[name]]
    names = [f"{name.removesuffix('_at')}@{max(map(int, summary[name]))}" for name in several]
    columns = ("questions", "n", "accuracy", *names, "no answer", "failed", "length")
    table = Table(*columns, title=model, caption=_failures(summary))
    for name, part in parts.items():
        counts = (str(part["no_answer"]), str(sum(part["failed"].values())), _number(part["length"]))
        best = [_number(part[key] and list(part[key].values())[-1]) for key in several]
        accuracy = _number(part["accuracy"], part["accuracy_interval"])
        table.add_row(name, str(part["num_questions"]), accuracy, *best, *counts)
    console.print(table)
    names = {key: name for key, name in ATTENTION_NAMES.items() if summary[key] is not None}
    if names:
        table = Table(
            "questions", *names.values(), "AUC of TAS", title=f"attention{_of_layers(summary.get('layers'))}"
        )
        for name, part in parts.items():
            link = part["tas_and_correctness"]
            values = [_number(part[key], part["intervals"].get(key)) for key in names]
            table.add_row(name, *values, _number(link["auc"], link["auc_interval"]))
        console.print(table)
    if summary["energy"] is not None:
        print_faithfulness(console, summary)
    if summary["tas_by_layer"]:
        table = Table("layer", "TAS", "right answers", "wrong answers", "AUC", title="TAS by layer")
        for row in layer_rows(summary["tas_by_layer"]):
            table.add_row(*row)
        console.print(table)
        console.print(advice(summary["tas_by_layer"]), highlight=False)


def print_faithfulness(console: Console, summary: Mapping[str, Any]) -> None:
    """Whether the answers use what is looked at; see `sayo.evaluation.faithfulness`."""
    table = Table("faithfulness", "", title="does it use what it looks at?")
    for key, label in FAITHFULNESS_NAMES.items():
        table.add_row(label, _number(summary[key], summary["intervals"].get(key)))
    console.print(table)


def _failures(summary: Mapping[str, Any]) -> str | None:
    failed = sum(summary["failed"].values())
    samples = failed + summary["num_completions"]
    return f"{failed} of {samples} samples failed; no figure but this one counts them" if failed else None


def layer_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Of each layer alone (see `summary.layer_figures`): its number, the three means of its TAS, and its AUC."""
    means = ("mean", "mean_right", "mean_wrong")
    return [
        (str(row["layer"]), *(_number(row[name]) for name in means), _number(row["auc"], row["auc_interval"]))
        for row in figures["by_layer"]
    ]


def print_comparison(a: Path, b: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Result of `compare.compare_results`: values of both, the paired difference and its test."""
    table = Table("data", "n", f"A: {a.name}", f"B: {b.name}", "B - A", "better/worse", "p", title=f"{b} against {a}")
    for name, values in results.items():
        kinds = values["by_type"] if len(values["by_type"]) > 1 else {}
        rows = {name: values["accuracy"], f"{name}: TAS{_of_layers(values['tas_layers'])}": values["tas"]}
        for label, part in {**rows, **{f"  {kind}": part for kind, part in kinds.items()}}.items():
            if part is not None:
                means = (f"{part['mean_a']:.3f}", f"{part['mean_b']:.3f}")
                difference = f"{part['difference']:+.3f}" + _interval(part["interval"])
                counts = f"{part['better']}/{part['worse']}"
                table.add_row(label, str(part["num_questions"]), *means, difference, counts, f"{part['p_value']:.2g}")
    wide_console().print(table)


def _of_layers(layers: Sequence[int] | str | None) -> str:
    if isinstance(layers, str):  # of earlier results, as it was asked for
        return f" (layers: {layers})"
    return f" (layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))})" if layers else ""


def progress(todo: Sequence[int]) -> Iterable[int]:
    return track(todo, "evaluating", console=Console(stderr=True))


def wide_console() -> Console:
    """A console; a file or a pipe has no edge to break the lines at."""
    console = Console()
    return console if console.is_terminal else Console(width=130)


def _number(value: float | None, interval: list[float] | None = None) -> str:
    return "–" if value is None else f"{value:.3g}" + _interval(interval)


def _interval(values: list[float] | None) -> str:
    return f" [{values[0]:.3g}, {values[1]:.3g}]" if values else ""
