"""`build_report`: everything that is known about some runs on one HTML page that needs nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from sayo import __version__
from sayo.errors import SayoError
from sayo.report.charts import health_charts, layer_chart, training_charts
from sayo.report.evaluation import Evaluation
from sayo.report.gallery import gallery
from sayo.report.run import Run, flatten, load_run, unique_names
from sayo.report.tables import held_out_table, load_ablation, overview_table, reward_table, tiles


class ReportError(SayoError, ValueError):
    """There is nothing to report, or an input cannot be read; the message says what to do."""


def build_report(
    runs: Sequence[str | Path],
    out: str | Path,
    ablation: str | Path | None = None,
    questions: int = 6,
    before: str | Path | None = None,
    after: str | Path | None = None,
) -> Path:
    """Write the page about `runs` (folders that training wrote) to `out` and return its path.

    Args:
        runs: each with any of `trainer_state.json` (its own or its checkpoints'), `recipe.yaml`, `environment.json`,
            `evaluation/before/` and `evaluation/after/` (or one evaluation in `evaluation/`, which counts as after).
            The page names what is missing.
        out: the HTML file; one with the same name is replaced once the new one is complete.
        ablation: JSON file with `{"rows": [{"arm", "seeds", <metric>: [one number per seed]}], "meta": {...}}`.
        questions: held-out questions in the gallery.
        before: evaluation folder of the policy that the runs started from, where it lies outside of them.
        after: evaluation folder of the first run's final policy, where it lies outside of it.

    Raises:
        ReportError: a folder does not exist, none of them holds a log or an evaluation, or the ablation is unreadable.
    """
    first, after = (None if folder is None else Path(folder) for folder in (before, after))
    for folder in (first, after):
        if folder is not None and not folder.is_dir():
            raise ReportError(f"{folder} is no evaluation folder. `sayo evaluate` writes one.")
    try:
        loaded = [load_run(Path(run), first, after if index == 0 else None) for index, run in enumerate(runs)]
    except FileNotFoundError as error:
        raise ReportError(f"{error}. Name folders that `sayo train` wrote (its trainer.output_dir).") from error
    names = unique_names([Path(run) for run in runs])
    loaded = [dataclasses.replace(run, name=name) for run, name in zip(loaded, names, strict=True)]
    if not any(run.history or run.before or run.after for run in loaded) and ablation is None:
        raise ReportError(
            f"{', '.join(names)}: no trainer_state.json and no evaluation/ in there, so nothing to report."
        )
    try:
        table, charts = load_ablation(Path(ablation)) if ablation is not None else (None, [])
    except ValueError as error:
        raise ReportError(str(error)) from error
    html = _render(loaded, table, charts, questions)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(out)
    return out


def _render(runs: list[Run], ablation: Any, ablation_charts: list, questions: int) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Everything a model or a data set said is text to this page: autoescape turns its tags into characters.
    environment = Environment(
        loader=PackageLoader("sayo.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    several = len(runs) > 1
    missing = [f"{run.name}: {text}" if several else text for run in runs for text in run.missing]
    galleries = []
    for name, policies in _policies(runs).items():
        entries, notes = gallery(policies, questions)
        galleries.append((name, entries))
        missing += notes
    everything = {
        f"{name} {policy}".strip(): e for name, group in _policies(runs).items() for policy, e in group.items()
    }
    tables = [table for run in runs if (table := held_out_table(run, several)) is not None]
    return environment.get_template("template.html").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        several=several,
        runs=[_facts(run) for run in runs],
        tiles=[(run.name, tiles(run)) for run in runs],
        tables=tables,
        overview=overview_table(everything),
        layers=layer_chart(everything),
        rewards=reward_table(runs),
        charts=training_charts(runs),
        health=health_charts(runs),
        galleries=[entry for entry in galleries if entry[1]],
        ablation=ablation,
        ablation_charts=ablation_charts,
        missing=missing,
        details=[(run.name, run.recipe_text, flatten(run.environment)) for run in runs],
        version=__version__,
        today=date.today().isoformat(),
    )


def _policies(runs: list[Run]) -> dict[str, dict[str, Evaluation | None]]:
    """Which policies are shown side by side: those of a run, or of all runs when they started from the same one."""
    if len(runs) == 1:
        return {"": {"Before training": runs[0].before, "After training": runs[0].after}}
    starts = {run.before.folder.resolve() if run.before is not None else None for run in runs}
    if len(starts) == 1:
        return {"": {"Before training": runs[0].before, **{run.name: run.after for run in runs}}}
    return {run.name: {"before training": run.before, "after training": run.after} for run in runs}


def _facts(run: Run) -> dict[str, Any]:
    """What the header says about a run: only what the recipe and the log know."""
    model, data = run.recipe.get("model") or {}, run.recipe.get("data") or {}
    rewards = run.recipe.get("rewards") or {}
    known = {
        "Model": model.get("name_or_path"),
        "Data": data.get("path"),
        "Rewards": ", ".join(f"{name}\u00a0×\u00a0{entry.get('weight', 1.0):g}" for name, entry in rewards.items())
        or None,
        "Tuning": None if not model else "LoRA" if model.get("lora") else "full",
        "Attention layers": (run.recipe.get("trainer") or {}).get("attention_layers"),
        "Seed": (run.recipe.get("trainer") or {}).get("seed"),
        "Steps": run.steps,
        "Environment": _machine(run.environment),
    }
    return {"name": run.name, "facts": {key: value for key, value in known.items() if value is not None}}


def _machine(environment: dict[str, Any]) -> str | None:
    """The versions that matter most, in one line; the rest is further down the page."""
    flat = flatten(environment)
    names = ("python", "torch", "transformers", "trl")
    parts = [f"{name} {flat[key]}" for name in names for key in flat if key.split(".")[-1] == name]
    return " · ".join(parts) or None
