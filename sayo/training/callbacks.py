"""Callbacks of every run: a warning when the learning signal fades, and a clean stop when it is asked to."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from transformers import TrainerCallback

from sayo.errors import SayoError
from sayo.training.launch import is_behind_launcher

WINDOW = 10
"""Log lines over which a metric is averaged before anyone is warned."""

LIMITS = {  # metric -> (is it wrong, what it is a share of and what helps)
    "frac_reward_zero_std": (
        lambda share: share >= 0.8,
        "of the groups have equal rewards and teach nothing: easier or harder questions, a finer reward, or more "
        "trainer.num_generations.",
    ),
    "completions/clipped_ratio": (
        lambda share: share >= 0.5,
        "of the completions are cut off: raise trainer.max_completion_length, or reward shorter ones.",
    ),
    "attention/coverage": (
        lambda share: share <= 0.1,
        "of the samples have a region: attention rewards say nothing about the others. Was the data prepared with "
        "this model's processor (`sayo inspect`)?",
    ),
}
console = Console(stderr=True)


class WarnWhenFading(TrainerCallback):
    """Reads the log after every line and warns, once until it recovers, when the learning signal fades."""

    def __init__(self):
        self._warned: set[str] = set()

    def on_log(self, args, state, control, **kwargs):
        messages = fading(state.log_history) if state.is_world_process_zero else {}
        for metric in messages.keys() - self._warned:
            console.print(f"[yellow]warning:[/] step {state.global_step}: {messages[metric]}", highlight=False)
        self._warned = set(messages)


def fading(log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Metric -> what is wrong with it over the last `WINDOW` log lines: those of `LIMITS`, and `reward` where its mean
    fell below its best window by more than two standard deviations of a batch (collapse)."""
    messages = {}
    rewards, spreads = _values(log, "reward"), _values(log, "reward_std")
    if len(rewards) >= 2 * WINDOW and len(spreads) == len(rewards):
        means = [fmean(rewards[start : start + WINDOW]) for start in range(len(rewards) - WINDOW + 1)]
        best = max(range(len(means) - WINDOW + 1), key=means.__getitem__)
        if means[best] - means[-1] > 2 * max(fmean(spreads[best : best + WINDOW]), 1e-6):
            messages["reward"] = (
                f"reward fell from {means[best]:.3g} to {means[-1]:.3g} (means of {WINDOW} lines): the policy may be "
                "collapsing. Look at the completions; a lower trainer.learning_rate or a higher trainer.beta helps."
            )
    for metric, (is_wrong, advice) in LIMITS.items():
        values = _values(log, metric)[-WINDOW:]
        if len(values) == WINDOW and is_wrong(fmean(values)):
            messages[metric] = f"{metric} is {fmean(values):.2f}: that share {advice}"
    return messages


def _values(log: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    return [line[metric] for line in log if isinstance(line.get(metric), (int, float))]


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
"""Windows has the first two."""


class Interrupted(SayoError):
    """The run was asked to stop and has saved; the same command resumes it.

    Its status is sysexits.h's EX_TEMPFAIL, "try again later". Behind a launcher it is each rank's status; torch's
    launcher reports it in its table and leaves with its own status, 1.
    """

    exit_status = 75
    label = "interrupted"


class StopOnSignal(TrainerCallback):
    """Stops all ranks at the same step when any of them gets one of `SIGNALS`, and has that step saved.

    SIGUSR1 is what Slurm users ask for before their time limit (`--signal=USR1@300`): the job is about to end, so the
    run saves and leaves as for SIGTERM. SIGHUP says that the terminal is gone (a lost ssh session), so whatever is
    written there from now on goes nowhere. What is ignored (SIGHUP under nohup, SIGINT in a script's background) stays
    so; but not behind torch's launcher, which takes its signals all the same, passes them on and then kills.

    A second signal has its usual effect, at once. Behind torch's launcher it has none: a scheduler signals launcher
    and ranks alike, and the launcher passes its own signal on, so that each rank gets two. The launcher kills its
    ranks 30 seconds later, or after the `TORCH_ELASTIC_SHUTDOWN_TIMEOUT` seconds of its environment.
    """

    def __init__(self, accelerator: Any):
        self._accelerator = accelerator
        self._received = False
        self._usual: dict[int, Any] = {}
        self._terminals: list[int] = []
        self.stopped = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside; however the body ends, they have their usual effect afterwards."""
        if threading.current_thread() is threading.main_thread():
            self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
            listened = [n for n in SIGNALS if is_behind_launcher() or signal.getsignal(n) is not signal.SIG_IGN]
            self._usual = {n: signal.signal(n, self._receive) for n in listened}
        try:
            yield
        finally:
            self._restore_usual()

    def on_step_end(self, args, state, control, **kwargs):
        received = torch.tensor([float(self._received)], device=self._accelerator.device)
        if self._accelerator.reduce(received, reduction="sum").item() > 0:  # on any rank
            self.stopped = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True

    def _receive(self, number: int, frame: Any) -> None:
        if self._received:
            return
        self._received = True
        if not is_behind_launcher():
            self._restore_usual()
        if signal.Signals(number).name == "SIGHUP":
            self._usual[number] = signal.signal(number, signal.SIG_IGN)  # a shell and the kernel send one each
            for stream in self._terminals:  # from now on every line would raise
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        console.print(f"\n{signal.Signals(number).name}: saving at the end of this step, then leaving.")

    def _restore_usual(self) -> None:
        while self._usual:
            signal.signal(*self._usual.popitem())
