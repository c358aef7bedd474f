"""Training-free steering on the toy world: VRGA's variants and AVAR's score scaling, with and without, same questions.

    python scripts/toy_steering.py runs/demo/cold_start     # after `make demo`

Every row answers the same held-out questions with the same seed. Nothing is tuned on them: gamma and the alphas are
the papers' own. VRGA's neighbourhood and border are left out (radius 0, no border), because two cells to each side of
a token would be a whole toy picture of 4 x 4 tokens.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

COLUMNS = ("accuracy", "tas", "region_ratio", "image_mass", "vas", "mean_length")
AIM = {"radius": 0, "border_share": 0.0}


def steerings(model: Any, processor: Any) -> dict[str, Any]:
    from sayo.steering import AttentionSteering, ScoreScaling

    return {
        "none": nullcontext(),
        "VRGA, gamma 0": AttentionSteering(model, processor, gamma=0.0, **AIM),
        "VRGA, visual heads": AttentionSteering(model, processor, **AIM),
        "VRGA, gated heads": AttentionSteering(model, processor, heads="gated", **AIM),
        "VRGA, hard, gated heads": AttentionSteering(model, processor, variant="hard", heads="gated", **AIM),
        "AVAR, image .15": ScoreScaling(model, image=0.15),
        "AVAR, image .15, system .4": ScoreScaling(model, image=0.15, system=0.4),
    }


def main(
    policy: Annotated[Path, typer.Argument(help="Checkpoint of a toy policy.")] = Path("runs/demo/cold_start"),
    data: Annotated[Path, typer.Option(help="Prepared toy data.")] = Path("runs/demo/prepared"),
    split: Annotated[str, typer.Option(help="Split of --data.")] = "test",
    questions: Annotated[int, typer.Option(min=1)] = 400,
    num_samples: Annotated[int, typer.Option(min=1, help="Sampled answers per question.")] = 2,
    layers: Annotated[str, typer.Option(help="Layers whose attention is reported.")] = "1",
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the table.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="50 questions, one answer each.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 1 unless gamma 0 changes nothing and boosting looks more.")
    ] = False,
) -> None:
    """Compare accuracy and attention with and without steering."""
    from sayo.evaluation.evaluate import evaluate
    from sayo.evaluation.local import LocalModel
    from sayo.recipes import DataSection
    from sayo.training.setup import load_data

    questions, num_samples = (50, 1) if quick else (questions, num_samples)
    rows = load_data(DataSection(path=str(data), max_samples=questions), split)
    options = {"num_samples": num_samples, "max_new_tokens": 24, "layers": [int(x) for x in layers.split(",")]}
    answerer = LocalModel.from_pretrained(str(policy), temperature=1.0, seed=seed, **options)
    results = {}
    for name, steering in steerings(answerer.model, answerer.processor).items():
        started = time.perf_counter()
        with steering, TemporaryDirectory() as folder:
            summary = evaluate(answerer, rows, folder, num_maps=0)
        results[name] = {column: summary[column] for column in COLUMNS}
        results[name]["seconds"] = round(time.perf_counter() - started, 1)
    meta = {"policy": str(policy), "split": split, "questions": len(rows), **options, "seed": seed}
    meta["torch"] = torch.__version__
    if out is not None:
        out.write_text(json.dumps({"meta": meta, "rows": results}, indent=2) + "\n", encoding="utf-8")
    table = Table("steering", *COLUMNS, "seconds", title=f"{policy}: {len(rows)} questions of {split}")
    for name, values in results.items():
        table.add_row(name, *(f"{value:.3f}" for value in values.values()))
    Console(width=120).print(table)
    plain, same = (dict(results[name], seconds=0) for name in ("none", "VRGA, gamma 0"))
    more = results["AVAR, image .15, system .4"]["image_mass"] > plain["image_mass"]
    if check and not (plain == same and more):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
