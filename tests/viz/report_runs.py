"""Run folders with a made-up but realistic log, recipe, environment and evaluations, as input for the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLORS = {"red": (220, 60, 50), "blue": (60, 90, 210), "green": (50, 160, 80), "yellow": (235, 200, 60)}
KINDS = ("attribute", "relation", "counting")
CELLS = 4  # a 64 x 64 picture is 4 x 4 visual tokens


FEW = ("step", "rewards/accuracy/mean", "rewards/attention/mean", "attention/region_ratio", "entropy")


def write_log(run: Path, steps: int, gain: float, rng: np.random.Generator, full: bool) -> None:
    """`trainer_state.json` with the keys that TRL and sayo log, or with a few of them (fewer charts, faster tests)."""
    history = []
    for step in range(1, steps + 1):
        done = 1 - np.exp(-3 * step / steps)
        noise = rng.normal(0, 0.03, 6)
        history.append(
            {
                "step": step,
                "epoch": step / steps,
                "loss": float(noise[0] / 100),
                "reward": float(1.2 + gain * done + noise[0]),
                "rewards/accuracy/mean": float(0.55 + gain * done + noise[1]),
                "rewards/accuracy/std": float(0.45 - 0.2 * done),
                "rewards/format/mean": float(0.9 + 0.05 * done + noise[2] / 3),
                "rewards/format/std": 0.08,
                "rewards/attention/mean": float(0.3 + 1.2 * gain * done + noise[3]),
                "rewards/attention/std": 0.2,
                "attention/region_ratio": float(1.4 + 4 * gain * done + 5 * noise[4]),
                "attention/region_mass": float(0.05 + 0.2 * gain * done + noise[4] / 5),
                "attention/image_mass": float(0.3 + 0.1 * done + noise[4] / 5),
                "completions/mean_length": float(17 + 2 * done + 10 * noise[5]),
                "entropy": float(0.4 - 0.25 * done + noise[5] / 5),
                "frac_reward_zero_std": float(0.05 + 0.3 * done),
                "grad_norm": float(0.9 - 0.4 * done + noise[5]),
                "step_time": float(0.8 + noise[5]),
                "kl": float("nan"),
                "gradient_share/accuracy": float(0.7 - 0.2 * done),
                "gradient_share/attention": float(0.2 + 0.2 * done),
                "gradient_share/format": 0.1,
                "rewards/accuracy/frac_zero_std": float(0.1 + 0.5 * done),
            }
        )
        if step % 10 == 0:  # the trainer's own evaluation
            history.append({"step": step, "eval_rewards/accuracy/mean": float(0.5 + gain * done), "eval_loss": 0.0})
    if not full:
        history = [{key: entry[key] for key in FEW} for entry in history if "loss" in entry]
    (run / "trainer_state.json").write_text(json.dumps({"global_step": steps, "log_history": history}))


def write_evaluation(folder: Path, skill: float, rng: np.random.Generator, questions: int = 18) -> None:
    """`summary.json`, `samples.jsonl`, `maps.npz` and the pictures of an evaluation by a policy of some skill."""
    (folder / "images").mkdir(parents=True)
    maps, lines, names = {}, [], list(COLORS)
    for number in range(questions):
        target, other = (number * 5) % 16, (number * 5 + 7) % 16
        color, wrong = names[number % 4], names[(number + 1) % 4]
        picture = Image.new("RGB", (64, 64), (226, 232, 240))
        pen = ImageDraw.Draw(picture)
        for cell, name in ((target, color), (other, wrong)):
            x, y = 16 * (cell % CELLS), 16 * (cell // CELLS)
            pen.ellipse((x + 2, y + 2, x + 13, y + 13), fill=COLORS[name], outline=(30, 41, 59))
        picture.save(folder / "images" / f"{number}.png")
        heat = rng.uniform(0.2, 1.0, (CELLS, CELLS))
        heat.flat[other] += 6 * (1 - skill)
        heat.flat[target] += 8 * skill
        maps[f"q{number}"] = (0.4 * heat / heat.sum()).astype(np.float32)
        correct = (rng.random(4) < skill).astype(int).tolist()
        x, y = 16 * (target % CELLS), 16 * (target // CELLS)
        said = [
            f"I look at the {'round' if c else 'other'} one. <answer>{color if c else wrong}</answer>" for c in correct
        ]
        lines.append(
            {
                "id": f"q{number}",
                "question": f"What colour is the disc in row {target // CELLS + 1}?",
                "question_type": KINDS[number % 3],
                "solution": color,
                "completions": said,
                "correct": correct,
                "tas": float(np.clip(skill + rng.normal(0, 0.1), 0, 1)),
                "regions": [
                    {"box": [x, y, x + 16, y + 16], "role": "answer"},
                    {
                        "box": [
                            16 * (other % CELLS),
                            16 * (other // CELLS),
                            16 * (other % CELLS) + 16,
                            16 * (other // CELLS) + 16,
                        ],
                        "role": "evidence",
                    },
                ],
                "image_size": [64, 64],
                "image": f"images/{number}.png",
                "map": f"q{number}",
            }
        )
    np.savez(folder / "maps.npz", **maps)
    (folder / "samples.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    write_summary(folder, lines)


def write_summary(folder: Path, lines: list[dict]) -> None:
    """`summary.json` as the mean of the samples."""

    def means(chosen: list[dict]) -> dict:
        correct = float(np.mean([np.mean(line["correct"]) for line in chosen]))
        return {
            "accuracy": correct,
            "tas": float(np.mean([line["tas"] for line in chosen])),
            "num_questions": len(chosen),
        }

    summary = {**means(lines), "region_score": None, "region_ratio": 2.5, "mean_length": 17.5, "num_samples": 4}
    summary["accuracy_interval"] = [summary["accuracy"] - 0.05, summary["accuracy"] + 0.04]
    summary["intervals"] = {"tas": [summary["tas"] - 0.02, summary["tas"] + 0.02], "length": [17.0, 18.0]}
    aucs = [0.5, summary["accuracy"], 0.45]
    by_layer = [
        {"layer": i, "tas": 0.6, "auc": auc, "auc_interval": [auc - 0.05, auc + 0.05]} for i, auc in enumerate(aucs)
    ]
    summary["tas_by_layer"] = {"by_layer": by_layer, "best": None}
    summary["by_type"] = {kind: means([line for line in lines if line["question_type"] == kind]) for kind in KINDS}
    (folder / "summary.json").write_text(json.dumps(summary))
