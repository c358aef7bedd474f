"""Warnings while a run still looks alive but has stopped to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

WINDOW = 10
"""Log lines over which a metric is averaged before anyone is warned."""

console = Console(stderr=True)


class WarnWhenFading(TrainerCallback):
    """Reads the log after every line and warns, once until it recovers, when the learning signal fades."""

    def on_log(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        before = fading(state.log_history[:-1])
        for metric, message in fading(state.log_history).items():
            if metric not in before:
                console.print(f"[yellow]warning:[/] step {state.global_step}: {message}", highlight=False)


def fading(log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Metric -> what is wrong with it over the last `WINDOW` log lines.

    - `reward`: its mean fell below its best window by more than two standard deviations of a batch (collapse).
    - `frac_reward_zero_std`: four fifths of the groups have equal rewards, so they teach nothing.
    - `completions/clipped_ratio`: half of the completions are cut off.
    - `attention/coverage`: nine tenths of the samples have no region, so an attention reward says nothing.
    """
    found = {}
    rewards, spreads = _values(log, "reward"), _values(log, "reward_std")
    if len(rewards) >= 2 * WINDOW and len(spreads) == len(rewards):
        means = [_mean(rewards[start : start + WINDOW]) for start in range(len(rewards) - WINDOW + 1)]
        best = max(range(len(means) - WINDOW + 1), key=means.__getitem__)
        if means[best] - means[-1] > 2 * max(_mean(spreads[best : best + WINDOW]), 1e-6):
            found["reward"] = (
                f"reward fell from {means[best]:.3g} to {means[-1]:.3g} (means of {WINDOW} lines): the policy may be "
                "collapsing. Look at the completions; a lower trainer.learning_rate or a higher trainer.beta helps."
            )
    for metric, is_wrong, advice in (
        (
            "frac_reward_zero_std",
            lambda share: share >= 0.8,
            "of the groups have equal rewards and teach nothing: easier or harder questions, a finer reward, or more "
            "trainer.num_generations.",
        ),
        (
            "completions/clipped_ratio",
            lambda share: share >= 0.5,
            "of the completions are cut off: raise trainer.max_completion_length, or reward shorter ones.",
        ),
        (
            "attention/coverage",
            lambda share: share <= 0.1,
            "of the samples have a region: attention rewards say nothing about the others. Was the data prepared "
            "with this model's processor (`sayo inspect`)?",
        ),
    ):
        values = _values(log, metric)[-WINDOW:]
        if len(values) == WINDOW and is_wrong(_mean(values)):
            found[metric] = f"{metric} is {_mean(values):.2f}: that share {advice}"
    return found


def _values(log: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    return [line[metric] for line in log if isinstance(line.get(metric), (int, float))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
