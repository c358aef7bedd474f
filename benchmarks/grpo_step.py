"""A whole GRPO step, TRL's own trainer against the one that reads attention: real trainers, pictures and rollouts.

python benchmarks/grpo_step.py --shape 100m --steps 3        # prints one JSON list; run by scripts/bench_capture.py

Two settings: `scored`, where TRL runs its scoring pass anyway and the reading rides on it, and `aligned`, where TRL
skips that pass and the reading needs it: one forward more, and `passes` shows that it is one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from typer.testing import CliRunner

from data_prep.cli import prepare_app
from sayo.toyworld.gqa_files import write_gqa
from sayo.toyworld.policy import make_policy, make_processor
from sayo.training.config import RegionGRPOConfig
from sayo.training.grpo import RegionGRPOTrainer

SETTINGS = {
    "scored": {"steps_per_generation": 2, "gradient_accumulation_steps": 1},
    "aligned": {"steps_per_generation": 1, "gradient_accumulation_steps": 1},
}
CYCLE = 2  # optimiser steps after which both settings have generated again
COMPLETION = 32


class StepClock(TrainerCallback):
    """Seconds of each optimiser step: process time on a CPU, wall time on a GPU."""

    def __init__(self, device: str):
        self.steps: list[float] = []
        self.clock = time.perf_counter if device == "cuda" else time.process_time
        self.device = device

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return self.clock()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = self._now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append(self._now() - self.start)


def prepare(folder: Path, side: int) -> tuple[Any, Any]:
    """Pictures, questions and a processor that shows each picture with `(side / 16) ** 2` visual tokens."""
    for _ in write_gqa(folder / "world", 8, 0):
        pass
    processor = make_processor("qwen3_vl")
    processor.image_processor.size = {"shortest_edge": side * side, "longest_edge": side * side}
    processor.save_pretrained(folder / "policy")
    make_policy("qwen3_vl").config.save_pretrained(folder / "policy")
    world = folder / "world"
    words = ["gqa", "--questions", world / "train_questions.json", "--scene-graphs", world / "train_sceneGraphs.json"]
    words += ["--images", world / "images", "--processor", folder / "policy", "--out", folder / "data"]
    result = CliRunner().invoke(prepare_app, [str(word) for word in words])
    if result.exit_code:
        raise RuntimeError(result.output)
    return processor, load_dataset(str(folder / "data"), split="train", cache_dir=str(folder / "cache"))


def make_model(shape: tuple[int, ...], device: str) -> torch.nn.Module:
    """The toy family with a decoder of the given shape and random weights."""
    hidden, intermediate, layers, heads, kv_heads, head_dim = shape
    model = make_policy("qwen3_vl")
    config = model.config
    config.text_config.update(
        {
            "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "layer_types": ["full_attention"] * layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "head_dim": head_dim, "max_position_embeddings": 8192, "initializer_range": 0.02,
        }
    )  # fmt: skip
    third = head_dim // 2 // 3
    config.text_config.rope_parameters["mrope_section"] = [head_dim // 2 - 2 * third, third, third]
    config.vision_config.out_hidden_size = hidden
    generation_config = model.generation_config
    with torch.device(device):
        model = type(model)(config).to(torch.bfloat16 if device == "cuda" else torch.float32)
    model.generation_config = generation_config
    return model


def count_calls(trainer: GRPOTrainer) -> list[int]:
    """Counts the policy's passes over prompt + completion."""
    calls, score = [0], trainer._get_per_token_logps_and_entropies

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return score(*args, **kwargs)

    trainer._get_per_token_logps_and_entropies = counted
    return calls


def length_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Some spread among the completions, so that the loss has a gradient."""
    return [float(ids[0] % 7) for ids in completion_ids]


def measure(trainer_class: type, config_class: type, model, processor, rows, device: str, steps: int, options: dict):
    """(seconds of each step after the first cycle, passes per step)."""
    clock = StepClock(device)
    with tempfile.TemporaryDirectory() as folder:
        args = config_class(
            output_dir=folder, per_device_train_batch_size=4, num_generations=4, max_completion_length=COMPLETION,
            generation_kwargs={"min_new_tokens": COMPLETION}, max_steps=steps + CYCLE, learning_rate=1e-6, beta=0.0,
            bf16=device == "cuda", use_cpu=device == "cpu", gradient_checkpointing=device == "cuda",
            optim="sgd", save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1000, seed=0,
            **options,
        )  # fmt: skip
        trainer = trainer_class(
            model=model, reward_funcs=length_reward, args=args, train_dataset=rows, processing_class=processor,
            callbacks=[clock],
        )  # fmt: skip
        calls = count_calls(trainer)
        trainer.train()
    return clock.steps[CYCLE:], calls[0] / (steps + CYCLE)


def compare(shape: tuple[int, ...], device: str, side: int, steps: int, rounds: int) -> list[dict]:
    """One row per setting: TRL's trainer and ours in turn, `rounds` times."""
    trainers: dict[str, tuple[type, type]] = {
        "trl": (GRPOTrainer, GRPOConfig),
        "sayo": (RegionGRPOTrainer, RegionGRPOConfig),
    }
    results = []
    with tempfile.TemporaryDirectory() as folder:
        processor, rows = prepare(Path(folder), side)
        model = make_model(shape, device)
        for setting, options in SETTINGS.items():
            times: dict[str, list[float]] = {name: [] for name in trainers}
            passes = {}
            for _ in range(rounds):
                for name, classes in trainers.items():
                    seconds, passes[name] = measure(*classes, model, processor, rows, device, steps, options)
                    cycles = [sum(seconds[i : i + CYCLE]) for i in range(0, len(seconds), CYCLE)]
                    times[name] += cycles
            pairs = [ours / theirs for ours, theirs in zip(times["sayo"], times["trl"], strict=True)]
            results.append(
                {
                    "part": "step", "case": setting, "parameters": sum(p.numel() for p in model.parameters()),
                    "visual_tokens": (side // 16) ** 2, "ratio": statistics.median(pairs),
                    "ratio_of_minima": min(times["sayo"]) / min(times["trl"]), "seconds": min(times["trl"]),
                    "passes": passes,
                }
            )  # fmt: skip
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=6, default=[768, 3072, 12, 12, 4, 64])
    parser.add_argument("--side", type=int, default=256, help="pixels; a visual token is 16 x 16 of them")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    with contextlib.redirect_stdout(sys.stderr):  # trainers print
        results = compare(tuple(options.shape), options.device, options.side, options.steps, options.rounds)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
