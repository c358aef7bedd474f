"""The toy bench: neighbouring methods from one cold start, several seeds, judged on held-out questions.

    make demo                                                   # makes the world, the policy and the cold start
    python scripts/toy_bench.py                                 # the whole table
    python scripts/toy_bench.py --arms "cold start,both"        # some of it

Every arm is the recipe `toy` with a few other keys (`scripts/toy_arms.py`), trained through the same code as any other
run, on the same questions in the same order for the same seed. Held-out questions are answered by sampling at
temperature 1. Nothing is tuned on them. An arm that was measured with the same settings is not run again.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two runs side by side beat one run on two threads

import typer
from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from toy_arms import ARMS, QUANTITIES, STARTS, Settings, make_start, run_arm, start_dir

COSTS = ("passes_per_step", "cpu_seconds_per_step")
SHOWN = {"accuracy": "accuracy", "tas": "TAS", "vas": "VAS", "region_ratio": "target ratio", "mean_length": "length"}


def main(
    root: Annotated[Path, typer.Option(help="Folder of `make demo`.")] = Path("runs/demo"),
    runs: Annotated[Path, typer.Option(help="Folder for the runs of all arms.")] = Path("runs/toy_bench"),
    out: Annotated[Path, typer.Option(help="JSON file for the table.")] = Path("benchmarks/toy_bench.json"),
    arms: Annotated[str, typer.Option(help=f"Arms, separated by commas: {', '.join(ARMS)}.")] = ",".join(ARMS),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per arm.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Steps per arm; the recipe's own if not given.")] = None,
    questions: Annotated[int, typer.Option(min=1, help="Held-out questions.")] = 400,
    num_samples: Annotated[int, typer.Option(min=1, help="Sampled answers per held-out question.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each.")] = 2,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two arms, one seed, four steps: to see that it works.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 1 unless arms paid for accuracy beat their start.")
    ] = False,
) -> None:
    """Regenerate the toy table of the README."""
    names = [name.strip() for name in arms.split(",")]
    if quick:
        names, seeds, steps, questions, num_samples = ["cold start", "both"], 1, 4, 50, 1
    if unknown := set(names) - set(ARMS):
        raise typer.BadParameter(f"--arms: no {', '.join(sorted(unknown))}; there are {', '.join(ARMS)}")
    settings = Settings(str(root), str(runs), steps, questions, num_samples)
    if not (root / "prepared").is_dir():
        raise typer.BadParameter(f"--root: {root} has no prepared data; run `make demo` first")
    table = summarise(run_all(names, seeds, settings, workers), settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(table, indent=2) + "\n")
    Console(width=150).print(rich_table(table))
    if check and (worse := not_better(table)):
        typer.echo(f"not better than where they started: {', '.join(worse)}", err=True)
        raise typer.Exit(1)


def run_all(names: list[str], seeds: int, settings: Settings, workers: int) -> list[dict]:
    """Results of arms x seeds; the starts first, then the arms, then those that start from another arm."""
    first = [(name, seed) for name in names for seed in range(seeds) if ARMS[name].start in STARTS]
    later = [(name, seed) for name in names for seed in range(seeds) if ARMS[name].start in ARMS]
    if missing := {ARMS[name].start for name, _ in later} - set(names):
        raise typer.BadParameter(f"--arms: add {', '.join(sorted(missing))}, which another arm starts from")
    starts = _missing_starts({ARMS[name].start for name, _ in first}, settings)
    results = []
    with (
        Progress(console=Console(stderr=True)) as progress,
        # A process per run: its output goes to the run's own log, and nothing of one run is left for the next.
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool,
    ):
        task = progress.add_task("arms x seeds", total=sum(map(len, (*starts, first, later))))
        for wave in starts:
            _collect(pool, [(make_start, (name, settings)) for name in wave], progress, task)
        for jobs in (first, later):
            results += _collect(pool, [(run_arm, (*job, settings)) for job in jobs], progress, task)
    _befores(results, settings)
    order = {name: place for place, name in enumerate(names)}
    return sorted(results, key=lambda result: (order[result["arm"]], result["seed"]))


def _missing_starts(names: set[str], settings: Settings) -> list[list[str]]:
    """The starts that have to be made: those tuned from the untrained policy, then those tuned from others."""
    wanted = [name for name in STARTS if name in names or any(STARTS[other].base == name for other in names)]
    missing = [name for name in wanted if not (start_dir(name, settings) / "config.json").is_file()]
    return [[name for name in missing if (STARTS[name].base == "policy") == first] for first in (True, False)]


def _collect(pool, jobs, progress, task) -> list:
    futures, results = [pool.submit(function, *arguments) for function, arguments in jobs], []
    for future in futures:
        results.append(future.result())
        progress.advance(task)
    return results


def _befores(results: list[dict], settings: Settings) -> None:
    """Put the cold start's evaluation beside that of every arm that started there, for `sayo report`."""
    folders = {
        (r["arm"], r["seed"]): Path(settings.runs, f"{r['arm'].replace(' ', '_')}_{r['seed']}") for r in results
    }
    for (name, seed), folder in folders.items():
        before = folders.get(("cold start", seed))
        if before and ARMS[name].start == "cold_start" and ARMS[name].overrides:
            shutil.copytree(before / "evaluation/after", folder / "evaluation/before", dirs_exist_ok=True)


def summarise(results: list[dict], settings: Settings) -> dict:
    """Group by arm; what `sayo report --ablation` reads."""
    rows = []
    for name in dict.fromkeys(result["arm"] for result in results):
        own = [result for result in results if result["arm"] == name]
        columns = [column for column in (*QUANTITIES, *COSTS) if any(column in result for result in own)]
        values = {column: [result[column] for result in own if column in result] for column in columns}
        curves = [result["curve"] for result in own if "curve" in result]
        by_type = [result["accuracy_by_type"] for result in own]
        row = {"arm": name, "label": ARMS[name].label, "seeds": [result["seed"] for result in own], **values}
        rows.append({**row, "accuracy_by_type": {"by_seed": by_type}, "curve": {"by_seed": curves}})
    import torch
    import transformers
    import trl

    meta = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "steps": settings.steps or "the recipe's (40 of 64 completions)",
        "held_out_questions": settings.questions,
        "samples_per_question": settings.samples,
        "starts": "one supervised policy for all seeds of an arm",
        "device": platform.processor() or platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
    }
    return {"rows": rows, "meta": meta}


def rich_table(table: dict) -> Table:
    meta = table["meta"]
    shown = Table(
        "policy", "seeds", *SHOWN.values(), "passes a step", "CPU s",
        title=f"{meta['held_out_questions']} held-out questions, {meta['samples_per_question']} sampled answers each",
        box=MARKDOWN,
    )  # fmt: skip
    for row in table["rows"]:
        costs = [
            f"{mean(row[column]):.{digits}f}" if column in row else ""
            for column, digits in zip(COSTS, (0, 1), strict=True)
        ]
        shown.add_row(row["label"], str(len(row["seeds"])), *(spread(row[column]) for column in SHOWN), *costs)
    return shown


def spread(values: list[float]) -> str:
    """`mean ± standard deviation` over seeds."""
    digits = ".3f" if mean(values) < 1000 else ".1e"  # a VAS without attention on the prefix has no bound
    return f"{mean(values):{digits}} ± {stdev(values):{digits}}" if len(values) > 1 else f"{values[0]:{digits}}"


def not_better(table: dict) -> list[str]:
    """Arms that are paid for right answers and give no more of them than their start, where that is in the table."""
    from sayo.recipes import load_recipe

    accuracy = {row["arm"]: mean(row["accuracy"]) for row in table["rows"]}
    starts = {ARMS[name].start: accuracy[name] for name in accuracy if not _trains(name)}
    paid = [name for name in accuracy if _trains(name)]
    paid = [name for name in paid if "accuracy" in load_recipe(ARMS[name].recipe, ARMS[name].overrides).rewards]
    return [name for name in paid if accuracy[name] <= starts.get(ARMS[name].start, -1.0)]


def _trains(name: str) -> bool:
    return ARMS[name].overrides is not None


if __name__ == "__main__":
    typer.run(main)
