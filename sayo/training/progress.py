"""What a run shows in the terminal: a bar while it trains; at its end what moved, where things are, what is next."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import ProgressCallback

from sayo.recipes import Recipe

METRICS = (  # of the training log, in the order in which they are shown
    *("reward", "rewards/*/mean", "attention/tas", "attention/region_ratio", "attention/region_mass"),
    *("completions/mean_length", "entropy", "kl"),
)


class Progress(ProgressCallback):
    """transformers' bar (step, time left) with the reward, its parts and the TAS of the last log line beside it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and (line := beside_the_bar(logs or {})):
            self.training_bar.set_postfix_str(line)


def beside_the_bar(logs: Mapping[str, Any]) -> str:
    """Such as `reward 0.61 (accuracy 0.5, attention 0.11) TAS 0.68`; empty for a line without any of these."""
    values = {key: f"{logs[key]:.3g}" for key in logs if isinstance(logs[key], (int, float))}
    parts = [f"{key.split('/')[1]} {values[key]}" for key in fnmatch.filter(values, "rewards/*/mean")]
    whole = "reward" if "reward" in values else "loss"
    words = [f"{whole} {values[whole]}"] if whole in values else []
    words += [f"({', '.join(parts)})"] if parts else []
    words += [f"TAS {values['attention/tas']}"] if "attention/tas" in values else []
    return " ".join(words)


def first_and_last(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """`(metric, first, last)` of `METRICS`: means of the finite values of up to ten log entries at both ends."""
    keys, means = dict.fromkeys(key for entry in history for key in entry), []
    for key in (key for pattern in METRICS for key in fnmatch.filter(keys, pattern)):
        values = [v for v in (e.get(key) for e in history) if isinstance(v, (int, float)) and math.isfinite(v)]
        many = min(10, math.ceil(len(values) / 2))
        if values:
            means.append((key, np.mean(values[:many]), np.mean(values[-many:])))
    return means


def print_end(console: Console, recipe: Recipe, run: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """What moved (means of up to ten log lines at both ends), where things are, and the commands that come next."""
    table = Table("metric", "at the start", "at the end", title="trained", title_justify="left")
    for name, first, last in first_and_last(history):
        table.add_row(name, f"{first:.3g}", f"{last:.3g}")
    console.print(table)
    model = Path("models", run.name)
    places = {"model": "", "every metric": "trainer_state.json", "completions": "completions", "overlays": "overlays"}
    for name, place in places.items():
        if (run / place).exists():
            console.print(f"{name}: {run / place}", highlight=False, soft_wrap=True)
    console.print("next:")
    following = [f"sayo report {run}", f"sayo export {run} --out {model}"]
    if recipe.rewards:
        data = f"--data {recipe.data.path} --split {recipe.data.eval_split or recipe.data.split}"
        following.append(f"sayo evaluate {model} {data} --out results/{run.name}")
    for command in following:
        console.print(f"  {command}", highlight=False, soft_wrap=True)
