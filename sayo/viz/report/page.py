"""`build_report`: everything that is known about some runs on one HTML page, and its way into a tracker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sayo.viz.pages import render_page, write_text
from sayo.viz.report.charts import training_charts
from sayo.viz.report.gallery import gallery
from sayo.viz.report.runs import HeldOut, ReportError, Run, load_run
from sayo.viz.report.tables import START, Table, ablation_table, headlines, held_out_tables, layer_tables


def build_report(
    runs: Sequence[str | Path], out: str | Path, questions: int = 6, ablation: str | Path | None = None
) -> Path:
    """Write the page about `runs` (folders that training wrote) to `out` and return its path.

    Args:
        runs: each with any of `trainer_state.json` (its own or its checkpoints'), `recipe.yaml`, `environment.json`,
            `evaluation/before/` and `evaluation/after/` (or one evaluation in `evaluation/`, which counts as after).
            The page names what is missing.
        questions: held-out questions in the gallery.
        ablation: a file of arms and seeds (see `tables.ablation_table`).

    Raises:
        ReportError: a folder does not exist, a file in it cannot be read, or none holds a log or an evaluation.
    """
    names = [Path(run).resolve().name for run in runs]
    names = names if len(set(names)) == len(names) else list(map(str, runs))
    loaded = [load_run(Path(run), name) for run, name in zip(runs, names, strict=True)]
    if not any(run.history or run.before or run.after for run in loaded) and ablation is None:
        raise ReportError(f"{', '.join(names)}: no trainer_state.json and no evaluation/ in there: nothing to report.")
    arms = ablation_table(Path(ablation)) if ablation is not None else None
    return write_text(_page(loaded, questions, arms), out)


def _page(runs: list[Run], questions: int, ablation: Table | None) -> str:
    several, groups = len(runs) > 1, _policies(runs)
    everything = {f"{name} {policy}".strip(): e for name, group in groups.items() for policy, e in group.items()}
    return render_page(
        "report",
        title=f"{len(runs)} runs" if several else runs[0].name,
        several=several,
        runs=[(run.name, _facts(run)) for run in runs],
        headlines=headlines(groups),
        tables=held_out_tables(everything) + layer_tables(everything),
        ablation=ablation,
        charts=training_charts(runs),
        galleries=[(name, gallery(group, questions)) for name, group in groups.items()],
        missing=[f"{run.name}: {text}" if several else text for run in runs for text in run.missing],
        details=[(run.name, _as_yaml(run.recipe), _as_yaml(run.environment)) for run in runs],
    )


def _policies(runs: list[Run]) -> dict[str, dict[str, HeldOut]]:
    """Which policies are shown side by side: one before training, and those that became of it (by its answers)."""
    starts: list[list[Run]] = []
    for run in runs:
        same = (group for group in starts if run.before and group[0].before and _answers(run) == _answers(group[0]))
        if (group := next(same, None)) is None:
            starts.append([run])
        else:
            group.append(run)
    groups = {}
    for group in starts:
        afters = {run.name if len(group) > 1 else "after training": run.after for run in group}
        name = ", ".join(run.name for run in group) if len(starts) > 1 else ""
        groups[name] = {key: e for key, e in {START: group[0].before, **afters}.items() if e is not None}
    return groups


def _answers(run: Run) -> list[Any]:
    return [(key, sample.get("completions")) for key, sample in run.before.samples.items()]


def _facts(run: Run) -> dict[str, Any]:
    """What the header says about a run: only what the recipe and the log know."""
    model, trainer = run.recipe.get("model") or {}, run.recipe.get("trainer") or {}
    rewards = run.recipe.get("rewards") or {}
    known = {
        "Model": model.get("name_or_path"),
        "Data": (run.recipe.get("data") or {}).get("path"),
        "Rewards": ", ".join(f"{name}\u00a0×\u00a0{entry.get('weight', 1.0):g}" for name, entry in rewards.items()),
        "Tuning": "" if not model else "LoRA" if model.get("lora") else "full",
        "Attention layers": trainer.get("attention_layers"),
        "Seed": trainer.get("seed"),
        "Steps": max((int(entry["step"]) for entry in run.history if "step" in entry), default=None),
    }
    return {key: value for key, value in known.items() if value not in (None, "")}


def _as_yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True) if values else ""
