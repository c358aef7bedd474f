"""The toy ablation: cold start, accuracy reward, attention reward, both; several seeds, judged on held-out questions.

    python scripts/toy_ablation.py --cold-start runs/demo/cold_start --data runs/demo/prepared

Every arm is the `toy` recipe with another `rewards=` group, trained through the same code as any other run. Held-out
questions are answered by sampling at temperature 1. Nothing is tuned on them.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two runs side by side beat one run on two threads

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ARMS = {"accuracy": "accuracy reward", "attention": "attention reward", "both": "both rewards"}
COLUMNS = ("accuracy", "tas", "region_score", "target_ratio", "mean_length")


def run_arm(arm: str, seed: int, out: str, *settings) -> dict:
    """One run with everything that it prints in `out/<arm>_<seed>/log.txt`; see `train_and_evaluate`."""
    run_dir = Path(out, f"{arm.replace(' ', '_')}_{seed}")
    shutil.rmtree(run_dir, ignore_errors=True)  # an arm is run anew, never resumed from other settings
    run_dir.mkdir(parents=True)
    with (run_dir / "log.txt").open("w") as log:
        # Of the whole worker process: libraries and compilers print past Python's own streams.
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        return train_and_evaluate(arm, seed, run_dir, *settings)


def train_and_evaluate(
    arm: str, seed: int, run_dir: Path, cold_start: str, data: str, steps: int | None, questions: int, num_samples: int
) -> dict:
    """Train one arm (or none, for the cold start) and evaluate it on the test split; both are kept in `run_dir`."""
    import torch

    from sayo.evaluation.evaluate import evaluate
    from sayo.recipes import DataSection, ModelSection, load_recipe
    from sayo.training.run import train
    from sayo.training.setup import load_auto_processor, load_data, load_policy

    torch.set_num_threads(1)
    started = time.perf_counter()
    policy_dir, layers = cold_start, load_recipe("toy").trainer["attention_layers"]
    if arm in ARMS:
        overrides = [f"rewards=toy/{arm}", f"model.name_or_path={cold_start}", f"data.path={data}"]
        overrides += [
            f"trainer.output_dir={run_dir}",
            f"trainer.seed={seed}",
            "trainer.disable_tqdm=true",
            "trainer.save_strategy=no",
        ]
        overrides += [f"trainer.max_steps={steps}"] if steps else []
        policy_dir = str(train(load_recipe("toy", overrides)))
    trained = time.perf_counter()
    policy = load_policy(ModelSection(name_or_path=policy_dir, dtype="float32"))
    rows = load_data(DataSection(path=data, max_samples=questions), "test")
    result = evaluate(
        policy,
        load_auto_processor(policy_dir),
        rows,
        num_samples=num_samples,
        max_new_tokens=24,
        layers=layers,
        seed=seed,
    )
    result.save(run_dir / "evaluation" / "after")
    seconds = {"train_seconds": trained - started, "evaluate_seconds": time.perf_counter() - trained}
    return {"arm": arm, "seed": seed, **result.summary(), **seconds}


def main(
    cold_start: Annotated[Path, typer.Option(help="The cold-started policy, as `make demo` leaves it.")] = Path(
        "runs/demo/cold_start"
    ),
    data: Annotated[Path, typer.Option(help="Prepared toy data with a test split.")] = Path("runs/demo/prepared"),
    runs: Annotated[Path, typer.Option(help="Folder for the runs of all arms.")] = Path("runs/demo/ablation"),
    out: Annotated[Path, typer.Option(help="JSON file for the table.")] = Path("runs/demo/ablation.json"),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per arm.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Steps per arm; the recipe's own if not given.")] = None,
    questions: Annotated[int, typer.Option(min=1, help="Held-out questions.")] = 400,
    num_samples: Annotated[int, typer.Option(min=1, help="Sampled answers per held-out question.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, four steps, to see that it works.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 unless both rewards beat the cold start.")] = False,
) -> None:
    """Regenerate the toy table of the README."""
    seeds, steps, questions, num_samples = (1, 4, 50, 1) if quick else (seeds, steps, questions, num_samples)
    jobs = [(arm, seed) for arm in ("cold start", *ARMS) for seed in range(seeds)]
    shared = (str(runs), str(cold_start), str(data), steps, questions, num_samples)
    console = Console(stderr=True)
    started = time.perf_counter()
    with (
        Progress(console=console) as progress,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
    ):
        task = progress.add_task("arms x seeds", total=len(jobs))
        futures = [pool.submit(run_arm, arm, seed, *shared) for arm, seed in jobs]
        results = []
        for future in futures:
            results.append(future.result())
            progress.advance(task)
    for arm, seed in jobs[seeds:]:
        before = Path(runs, f"cold_start_{seed}", "evaluation", "after")
        shutil.copytree(before, Path(runs, f"{arm}_{seed}", "evaluation", "before"))
    table = summarise(results, time.perf_counter() - started, steps, num_samples)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(table, indent=2) + "\n")
    Console().print(rich_table(table))
    by_arm = {row["arm"]: row for row in table["rows"]}
    if check and mean(by_arm["both"]["accuracy"]) <= mean(by_arm["cold start"]["accuracy"]):
        raise typer.Exit(1)


def summarise(results: list[dict], seconds: float, steps: int | None, num_samples: int) -> dict:
    """Group by arm; what `sayo report --ablation` reads."""
    rows = []
    for arm in ("cold start", *ARMS):
        own = [result for result in results if result["arm"] == arm]
        values = {name: [result[name] for result in own] for name in (*COLUMNS, "train_seconds")}
        rows.append({"arm": arm, "seeds": [result["seed"] for result in own], **values})
    import torch
    import transformers
    import trl

    meta = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "steps": steps or "the recipe's",
        "held_out_questions": results[0]["num_questions"],
        "samples_per_question": num_samples,
        "wall_seconds": round(seconds, 1),
        "device": platform.processor() or platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
    }
    return {"rows": rows, "meta": meta}


def rich_table(table: dict) -> Table:
    meta = table["meta"]
    shown = Table(
        "policy", "seeds", "accuracy", "TAS", "region score", "target ratio", "length",
        title=f"{meta['held_out_questions']} held-out questions, {meta['samples_per_question']} sampled answers each",
    )  # fmt: skip
    for row in table["rows"]:
        name = ARMS.get(row["arm"], row["arm"])
        shown.add_row(name, str(len(row["seeds"])), *(spread(row[column]) for column in COLUMNS))
    return shown


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def spread(values: list[float]) -> str:
    """`mean ± standard deviation` over seeds."""
    middle = mean(values)
    if len(values) == 1:
        return f"{middle:.3f}"
    deviation = (sum((value - middle) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{middle:.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    typer.run(main)
