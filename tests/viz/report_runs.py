"""Run folders with a made-up but realistic log, recipe, environment and evaluations: input for the page."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

KINDS = ("attribute", "relation", "counting")
CELLS, SIDE = 4, 16  # a 64 x 64 picture is 4 x 4 visual tokens
FEW = {  # key: value at the start, change over training
    "rewards/accuracy/mean": (0.55, 0.4),
    "rewards/attention/mean": (0.3, 0.5),
    "attention/region_ratio": (1.4, 1.6),
    "entropy": (0.4, -0.25),
}
CURVES = {
    **FEW,
    "reward": (1.2, 0.4),
    "rewards/format/mean": (0.9, 0.05),
    "rewards/accuracy/std": (0.45, -0.2),
    "completions/mean_length": (17.0, 2.0),
    "gradient_share/accuracy": (0.7, 0.0),
    "gradient_share/attention": (0.2, 0.0),
    "gradient_share/format": (0.1, 0.0),
}


def write_run(run: Path, gain: float = 0.4, seed: int = 0, full_log: bool = False, steps: int = 40) -> Path:
    """A complete run folder whose policy gets `gain` better; a log of few curves makes faster tests."""
    rng = np.random.default_rng(seed)
    run.mkdir(parents=True)
    history = []
    for step in range(1, steps + 1):
        done = gain * (1 - np.exp(-3 * step / steps))
        curves = CURVES if full_log else FEW
        values = {key: float(first + change * done + rng.normal(0, 0.03)) for key, (first, change) in curves.items()}
        history.append({"step": step, "kl": float("nan"), **values})
        if full_log and step % 10 == 0:  # the trainer's own evaluation
            history.append({"step": step, "eval_rewards/accuracy/mean": float(0.5 + done)})
    (run / "trainer_state.json").write_text(json.dumps({"global_step": steps, "log_history": history}))
    recipe = {
        "model": {"name_or_path": "runs/demo/cold_start", "dtype": "float32", "lora": None},
        "data": {"path": "runs/demo/prepared", "split": "train"},
        "trainer": {"output_dir": str(run.name), "attention_layers": "last", "seed": seed},
        "rewards": {"accuracy": {"weight": 1.0}, "attention": {"weight": 0.5}},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    environment = {"python": "3.11.2", "packages": {"torch": "2.13.0", "transformers": "5.23.0"}, "cpus": 2}
    (run / "environment.json").write_text(json.dumps(environment))
    write_evaluation(run / "evaluation" / "before", 0.45, rng)
    write_evaluation(run / "evaluation" / "after", min(0.97, 0.5 + gain), rng)
    return run


def write_evaluation(folder: Path, skill: float, rng: np.random.Generator, questions: int = 18) -> None:
    """`summary.json`, `samples.jsonl`, `maps.npz` and the pictures of an evaluation by a policy of some skill."""
    (folder / "images").mkdir(parents=True)
    maps, records = {}, []
    for number in range(questions):
        cells = {"answer": (number * 5) % CELLS**2, "evidence": (number * 5 + 7) % CELLS**2}
        places = {role: (SIDE * (cell % CELLS), SIDE * (cell // CELLS)) for role, cell in cells.items()}
        Image.new("RGB", (CELLS * SIDE, CELLS * SIDE), "#e2e8f0").save(folder / "images" / f"{number}.png")
        heat = rng.uniform(0.2, 1.0, (CELLS, CELLS))
        heat.flat[[cells["evidence"], cells["answer"]]] += 6 * (1 - skill), 8 * skill
        maps[f"q{number}"] = (0.4 * heat / heat.sum()).astype(np.float32)
        correct = (rng.random(4) < skill).astype(int).tolist()
        records.append(
            {
                "id": f"q{number}",
                "question": f"What colour is the disc in row {cells['answer'] // CELLS + 1}?",
                "question_type": KINDS[number % 3],
                "solution": "red",
                "completions": [f"I look. <answer>{'red' if right else 'blue'}</answer>" for right in correct],
                "correct": correct,
                "tas": float(np.clip(skill + rng.normal(0, 0.1), 0, 1)),
                "regions": [{"box": [x, y, x + SIDE, y + SIDE], "role": role} for role, (x, y) in places.items()],
                "image": f"images/{number}.png",
                "map": f"q{number}",
            }
        )
    np.savez(folder / "maps.npz", **maps)
    write_records(folder / "samples.jsonl", records)
    summary = {**means(records), "region_score": None, "region_ratio": 2.5, "mean_length": 17.5, "num_samples": 4}
    summary["accuracy_interval"] = [summary["accuracy"] - 0.05, summary["accuracy"] + 0.04]
    summary["intervals"] = {"tas": [summary["tas"] - 0.02, summary["tas"] + 0.02], "length": [17.0, 18.0]}
    summary["tas_by_layer"] = layer_figures(skill)
    summary["by_type"] = {kind: means(records[number::3]) for number, kind in enumerate(KINDS)}
    (folder / "summary.json").write_text(json.dumps(summary))


def write_records(path: Path, records: list[dict]) -> None:
    """`samples.jsonl`: one record a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def layer_figures(skill: float) -> dict:
    """As `sayo.evaluation.summary.layer_figures` returns them."""
    figures = {"auc": 0.4 + skill / 2, "auc_interval": [0.3 + skill / 2, 0.5 + skill / 2]}
    means = {"mean": skill, "mean_right": skill + 0.1, "mean_wrong": None}
    rows = [{"layer": 0, "auc": 0.5, "auc_interval": [0.4, 0.6], **means}, {"layer": 3, **figures, **means}]
    return {"by_layer": rows, "best": {"layer": 3, **figures, "clear": skill > 0.5}}


def means(records: list[dict]) -> dict:
    accuracy, tas = (float(np.mean([record[key] for record in records])) for key in ("correct", "tas"))
    return {"accuracy": accuracy, "tas": tas, "num_questions": len(records)}
