"""The toy bench: neighbouring methods from one cold start, several seeds, judged on held-out questions.

    make demo                                                                  # the world, the policy, the cold start
    python -m benchmarks.toy --out benchmarks/results/toy_bench.json           # the whole table
    python -m benchmarks.toy --arms "cold start,both"                          # some of it
    python -m benchmarks.toy --arms "cold start,steering" --seeds 1            # ways to steer the cold start

Every arm is the recipe `toy` with a few other keys (`toy_arms.yaml`), trained through the same code as any run, on
the same questions in the same order for the same seed. Held-out questions are answered by sampling at temperature 1.
Nothing is tuned on them. An arm that was measured with the same settings is not run again.
"""

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two runs side by side beat one run on two threads

from benchmarks.harness import finish, options_of
from benchmarks.toy_run import ARMS, CONTROLS, QUANTITIES, STARTS, STEERING, Settings, folder_of, lineage, run

COSTS = ("passes_per_step", "cpu_seconds_per_step")
SHOWN = {"accuracy": "accuracy", "tas": "TAS", "vas": "VAS", "region_ratio": "region ratio", "mean_length": "length"}


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs/demo"), help="folder of `make demo`")
    parser.add_argument("--runs", type=Path, default=Path("runs/toy_bench"), help="folder for the runs of all arms")
    parser.add_argument("--arms", default="all", help="separated by commas; `steering` stands for its ways")
    parser.add_argument("--seeds", type=int, default=3, help="seeds per arm")
    parser.add_argument("--steps", type=int, help="steps per arm; the recipe's own if not given")
    parser.add_argument("--questions", type=int, default=400, help="held-out questions")
    parser.add_argument("--num-samples", type=int, default=2, help="sampled answers per held-out question")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, one thread each")
    options = parser.parse_args()
    stand_for = {"steering": STEERING, "all": [name for name in ARMS if name not in STEERING | CONTROLS]}
    names = [name for entry in options.arms.split(",") for name in stand_for.get(entry.strip(), [entry.strip()])]
    if options.quick:
        names, options.seeds, options.steps = ["cold start", "both"], 1, 4
        options.questions, options.num_samples = 50, 1
    if unknown := sorted(set(names) - set(ARMS)):
        parser.error(f"--arms: no {', '.join(unknown)}; there are {', '.join(ARMS)}")
    if missing := sorted({ARMS[name].start for name in names} - set(STARTS) - set(names)):
        parser.error(f"--arms: add {', '.join(missing)}, which another arm starts from")
    if not (options.root / "prepared").is_dir():
        parser.error(f"--root: {options.root} has no prepared data; run `make demo` first")
    settings = Settings(options.root, options.runs, options.steps, options.questions, options.num_samples)
    rows = by_arm(run_all(names, options.seeds, settings, options.workers))
    about = {"steps": settings.steps or "the recipe's (40 of 64 completions)", "questions": settings.questions}
    about |= {"samples": settings.samples, "starts": "one supervised policy for all seeds of an arm"}
    title = f"{settings.questions} held-out questions, {settings.samples} sampled answers each"
    missed = [f"{name}: not better than its start" for name in not_better(rows)]
    finish(options, title, rows, missed, shown=[_shown(row) for row in rows], **about)


def run_all(names: list[str], seeds: int, settings: Settings, workers: int) -> list[dict]:
    """Results of arms x seeds; whatever another one starts from is there before it."""
    from rich.console import Console
    from rich.progress import Progress

    starts = [name for name in STARTS if any(name in lineage(other) for other in names)]
    jobs = [(name, 0) for name in starts] + [(name, seed) for name in names for seed in range(seeds)]
    results = []
    with (
        Progress(console=Console(stderr=True)) as progress,
        # A process per run: its output goes to the run's own log, and nothing of one run is left for the next.
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool,
    ):
        task = progress.add_task("arms x seeds", total=len(jobs))
        waves: dict[int, list] = {}
        for job in jobs:
            waves.setdefault(len(lineage(job[0])), []).append(job)
        for _, wave in sorted(waves.items()):
            for future in [pool.submit(run, *job, settings) for job in wave]:
                results.append(future.result())
                progress.advance(task)
    results = [result for result in results if result is not None]  # starts have none
    _befores(results, settings)
    return sorted(results, key=lambda result: (names.index(result["arm"]), result["seed"]))


def _befores(results: list[dict], settings: Settings) -> None:
    """Put the cold start's evaluation beside that of every arm that started there, for `sayo report`."""
    measured = [(result["arm"], result["seed"]) for result in results]
    for name, seed in measured:
        if ("cold start", seed) in measured and ARMS[name].start == "cold_start" and ARMS[name].overrides:
            before, after = (folder_of(arm, seed, settings) / "evaluation" for arm in ("cold start", name))
            shutil.copytree(before / "after", after / "before", dirs_exist_ok=True)


def by_arm(results: list[dict]) -> list[dict]:
    """One row per arm, values by seed; what `sayo report --ablation` reads."""
    rows = []
    for name in dict.fromkeys(result["arm"] for result in results):
        seeds = [result for result in results if result["arm"] == name]
        columns = [
            column for column in (*QUANTITIES, "accuracy_val", *COSTS) if any(column in result for result in seeds)
        ]
        values = {column: [result[column] for result in seeds if column in result] for column in columns}
        curves = [result["curve"] for result in seeds if "curve" in result]
        by_type = [result["accuracy_by_type"] for result in seeds]
        row = {"arm": name, "label": ARMS[name].label, "seeds": [result["seed"] for result in seeds], **values}
        rows.append({**row, "accuracy_by_type": {"by_seed": by_type}, "curve": {"by_seed": curves}})
    return rows


def _shown(row: dict) -> dict[str, Any]:
    costs = {column: round(mean(row[column]), 1) for column in COSTS if column in row}
    quantities = {title: spread(row[column]) for column, title in SHOWN.items()}
    return {"policy": row["label"], "seeds": len(row["seeds"]), **quantities, **costs}


def spread(values: list[float]) -> str:
    """`mean ± standard deviation` over seeds."""
    digits = ".3f" if mean(values) < 1000 else ".1e"  # a VAS without attention on the prefix has no bound
    return f"{mean(values):{digits}} ± {stdev(values):{digits}}" if len(values) > 1 else f"{values[0]:{digits}}"


def not_better(rows: list[dict]) -> list[str]:
    """Arms that are paid for right answers and give no more of them than their start, where that is in the table."""
    from sayo.recipes import load_recipe

    accuracy = {row["arm"]: mean(row["accuracy"]) for row in rows}
    trained = [name for name in accuracy if ARMS[name].overrides is not None]
    starts = {ARMS[name].start: accuracy[name] for name in reversed(accuracy) if name not in trained}
    paid = [name for name in trained if "accuracy" in load_recipe(ARMS[name].recipe, ARMS[name].overrides).rewards]
    return [name for name in paid if accuracy[name] <= starts.get(ARMS[name].start, -1.0)]


if __name__ == "__main__":
    main()
