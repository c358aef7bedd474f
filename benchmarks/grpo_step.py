"""A whole GRPO step, TRL's own trainer against the one that reads attention: real trainers, pictures and rollouts.

Settings: `scored`, where TRL runs its scoring pass anyway and the reading rides on it; `aligned`, where TRL skips that
pass and the attention is read while generating (of one layer, and of all); `forced`, where that cannot be and the pass
is made to run, one forward more, as `passes` shows. Run by `benchmarks.capture`.
"""

import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from datasets import load_dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.harness import make_toy_data, now
from benchmarks.models import SHAPES, SMALL_WORDS, make_model, write_checkpoint
from sayo.training.config import RegionGRPOConfig
from sayo.training.grpo import RegionGRPOTrainer

TRAINERS = {"trl": (GRPOTrainer, GRPOConfig), "sayo": (RegionGRPOTrainer, RegionGRPOConfig)}
SETTINGS = {"scored": 2, "aligned": 1, "aligned all": 1, "forced": 1}
"""Steps per generation; one optimiser step has one micro-batch."""

CYCLE = 2  # optimiser steps after which both settings have generated again
COMPLETION = 32


class StepClock(TrainerCallback):
    """Seconds of each optimiser step."""

    def __init__(self, device: str):
        self.steps: list[float] = []
        self.device = device

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = now(self.device)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append(now(self.device) - self.start)


def length_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Some spread among the completions, so that the loss has a gradient."""
    return [float(ids[0] % 7) for ids in completion_ids]


def compare(shape: dict, device: str, side: int, steps: int, rounds: int) -> list[dict]:
    """One row per setting: TRL's trainer and ours in turn, `rounds` times, on pictures of `(side / 16)^2` tokens."""
    from sayo.processors import load_auto_processor

    results = []
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):  # trainers print
        folder = Path(name)
        square = {"shortest_edge": side * side, "longest_edge": side * side}
        write_checkpoint(folder / "policy", "qwen3_vl", SHAPES["toy"], square)
        data = make_toy_data(folder, 10)
        rows = load_dataset(str(data), split="train", cache_dir=str(folder / "cache"))
        model = make_model("qwen3_vl", shape, device=device, text=SMALL_WORDS)
        processor = load_auto_processor(folder / "policy")
        model_inputs = {"model": model, "processing_class": processor, "train_dataset": rows}
        for setting in SETTINGS:
            times, passes = {trainer: [] for trainer in TRAINERS}, {}
            for trainer in list(TRAINERS) * rounds:
                clocked, passes[trainer] = _measure(trainer, model_inputs, device, steps, setting)
                times[trainer] += [sum(clocked[i : i + CYCLE]) for i in range(0, len(clocked), CYCLE)]
            pairs = [ours / theirs for ours, theirs in zip(times["sayo"], times["trl"], strict=True)]
            row = {"part": "step", "case": setting, "ratio": statistics.median(pairs), "seconds": min(times["trl"])}
            row |= {"ratio_of_minima": min(times["sayo"]) / min(times["trl"]), "passes": passes}
            results.append({**row, "parameters": model.num_parameters(), "visual_tokens": (side // 16) ** 2})
    return results


def _measure(name: str, model_inputs: dict, device: str, steps: int, setting: str) -> tuple[list[float], float]:
    """(seconds of each step after the first cycle, passes over prompt + completion per step)."""
    (trainer_class, config_class), clock = TRAINERS[name], StepClock(device)
    ours = {"attention_layers": "all" if setting.endswith("all") else "last"} if name == "sayo" else {}
    with tempfile.TemporaryDirectory() as folder:
        args = config_class(
            output_dir=folder, per_device_train_batch_size=4, num_generations=4, max_completion_length=COMPLETION,
            generation_kwargs={"min_new_tokens": COMPLETION}, max_steps=steps + CYCLE, learning_rate=1e-6, beta=0.0,
            bf16=device == "cuda", use_cpu=device == "cpu", gradient_checkpointing=device == "cuda",
            optim="sgd", save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1000, seed=0,
            gradient_accumulation_steps=1, steps_per_generation=SETTINGS[setting], **ours,
        )  # fmt: skip
        trainer = trainer_class(args=args, reward_funcs=length_reward, callbacks=[clock], **model_inputs)
        if setting == "forced":
            trainer._obstacle = "this is measured"
        score = "_get_per_token_logps_and_entropies"
        with mock.patch.object(trainer, score, wraps=getattr(trainer, score)) as scored:
            trainer.train()
    return clock.steps[CYCLE:], scored.call_count / (steps + CYCLE)
