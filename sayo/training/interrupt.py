"""Ctrl-C and a scheduler's SIGTERM: finish the step, save a checkpoint that counts, and leave with status 75."""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch
from rich.console import Console
from transformers import TrainerCallback

from sayo.training.launch import is_behind_launcher

EXIT_INTERRUPTED = 75
"""Status of a run that was asked to stop and has saved: sysexits.h's EX_TEMPFAIL, "try again later". Behind a launcher
it is each rank's status; torch's launcher reports it in its table and leaves with its own status, 1."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
console = Console(stderr=True)


class Interrupted(Exception):
    """The run was asked to stop, has saved, and goes on with the same command."""


class StopOnSignal(TrainerCallback):
    """Stops all ranks at the same step when any of them gets a signal, and has that step saved.

    A second signal has its usual effect, at once. Behind torch's launcher it has none: a scheduler signals launcher
    and ranks alike, and the launcher passes its own signal on, so that each rank gets two. The launcher kills its
    ranks 30 seconds later, or after the `TORCH_ELASTIC_SHUTDOWN_TIMEOUT` seconds of its environment.
    """

    def __init__(self, accelerator: Any):
        self._accelerator = accelerator
        self._received = 0
        self._usual: dict[int, Any] = {}
        self.stopped = False

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():
            self._usual = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_step_end(self, args, state, control, **kwargs):
        if self._any_rank_received():
            self.stopped = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self._restore_usual()

    def _receive(self, number: int, frame: Any) -> None:
        if self._received:
            return
        self._received = number
        again = ""
        if not is_behind_launcher():
            self._restore_usual()
            again = " (once more: leave at once)"
        name = signal.Signals(number).name
        console.print(f"\n{name}: saving at the end of this step, then leaving{again}.")

    def _restore_usual(self) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        self._usual = {}

    def _any_rank_received(self) -> bool:
        if self._accelerator.num_processes == 1:
            return self._received > 0
        received = torch.tensor([float(self._received > 0)], device=self._accelerator.device)
        return bool(self._accelerator.reduce(received, reduction="sum").item() > 0)
