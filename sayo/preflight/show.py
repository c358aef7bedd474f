"""The estimate as tables for people and as JSON for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table

from sayo.preflight.advice import Knob, combined, knobs
from sayo.preflight.estimate import GIB, Estimate
from sayo.preflight.setting import SHARDINGS


def as_json(estimate: Estimate) -> dict[str, Any]:
    """Plain values; memory in bytes, time in seconds."""
    turn = [] if estimate.fits else knobs(estimate)
    time = estimate.time
    return {
        "tokens": {
            "visual": estimate.tokens.visual,
            "text": estimate.tokens.text,
            "completion": estimate.setting.completion_tokens,
            "source": estimate.tokens.source,
        },
        "parameters": {
            name: {"total": count.parameters, "trainable": count.trainable} for name, count in estimate.parts.items()
        },
        "memory": {
            "items": estimate.memory.items,
            "peak": estimate.memory.peak,
            "peak_phase": estimate.memory.worst_phase,
            "phases": {name: estimate.memory.phase_peak(name) for name in estimate.memory.phases},
            "shardings": {kind: memory.peak for kind, memory in estimate.sharded.items()},
            "available": estimate.available,
            "gpu": estimate.gpu_bytes,
        },
        "fits": estimate.fits,
        "knobs": [{"change": knob.change, "peak": knob.peak, "note": knob.note} for knob in turn],
        "time": {
            "step": time.seconds,
            "parts": time.parts,
            "steps_per_epoch": time.steps_per_epoch,
            "epoch": time.steps_per_epoch and time.steps_per_epoch * time.seconds,
            "run": time.steps and time.steps * time.seconds,
        },
    }


def show(estimate: Estimate, console: Console) -> None:
    """Print everything, the verdict last."""
    console.print(tokens_table(estimate), parts_table(estimate), memory_table(estimate), time_table(estimate))
    console.print(verdict(estimate))


def tokens_table(estimate: Estimate) -> Table:
    """Tokens per prompt: percentiles and mean."""
    counted = estimate.tokens
    table = _table(f"Tokens per sample ({counted.source})", "tokens", *counted.visual)
    for name, row in (("visual", counted.visual), ("text", counted.text)):
        table.add_row(name, *(f"{value:,.0f}" for value in row.values()))
    if estimate.setting.completion_tokens:
        table.add_row("completion, at most", f"{estimate.setting.completion_tokens:,}")
    return table


def parts_table(estimate: Estimate) -> Table:
    """Parameters by part."""
    table = _table("Parameters", "part", "all", "trainable")
    for name, count in estimate.parts.items():
        if count.parameters:
            table.add_row(name, f"{count.parameters:,}", f"{count.trainable:,}")
    total = estimate.policy.total()
    table.add_row("[b]total[/]", f"[b]{total.parameters:,}[/]", f"[b]{total.trainable:,}[/]")
    return table


def memory_table(estimate: Estimate) -> Table:
    """Items at the peak, one column per sharding; the recipe's own column is marked."""
    setting = estimate.setting
    title = f"Memory of one of {setting.gpus} GPUs at its peak, GiB"
    marks = [f"[b]{kind} <[/]" if kind == setting.sharding else kind for kind in SHARDINGS]
    table = _table(title, "item", *marks)
    names = list(dict.fromkeys(name for memory in estimate.sharded.values() for name in memory.items))
    for name in names:
        table.add_row(name, *(_gib(memory.items.get(name, 0)) for memory in estimate.sharded.values()))
    table.add_section()
    table.add_row("[b]peak[/]", *(_mark(memory.peak, estimate.available) for memory in estimate.sharded.values()))
    table.add_row("in the phase", *(memory.worst_phase for memory in estimate.sharded.values()))
    for phase in estimate.memory.phases:
        table.add_row(f"  {phase}", *(_gib(memory.phase_peak(phase)) for memory in estimate.sharded.values()))
    without = other_checkpointing(estimate)
    word = "without" if setting.checkpointing else "with"
    table.add_row(f"peak {word} gradient checkpointing", *(_gib(peak) for peak in without))
    return table


def other_checkpointing(estimate: Estimate) -> list[int]:
    """Peaks under every sharding if gradient checkpointing were the other way round."""
    from sayo.preflight.estimate import repriced

    other = estimate.setting.change(checkpointing=not estimate.setting.checkpointing)
    return [repriced(estimate, other.change(sharding=kind)).peak for kind in SHARDINGS]


def time_table(estimate: Estimate) -> Table:
    """Seconds of a step by part, then a step, an epoch and the run."""
    time, hardware = estimate.time, estimate.hardware
    title = (
        f"Time ({hardware.peak_tflops:g} TFLOP/s, MFU {hardware.mfu:.0%} training and {hardware.prefill_mfu:.0%} "
        f"forward, engine {estimate.setting.engine})"
    )
    table = _table(title, "part", "seconds", "share")
    for name, seconds in time.parts.items():
        note = " (extra forward)" if name in estimate.setting.extra_forwards else ""
        table.add_row(name + note, f"{seconds:,.2f}", f"{seconds / time.seconds:.0%}")
    table.add_section()
    table.add_row("[b]one optimizer step[/]", f"[b]{time.seconds:,.2f}[/]")
    if time.steps_per_epoch:
        table.add_row(f"one epoch, {time.steps_per_epoch:,.0f} steps", _clock(time.steps_per_epoch * time.seconds))
    if time.steps:
        table.add_row(f"the run, {time.steps:,.0f} steps", _clock(time.steps * time.seconds))
    return table


def verdict(estimate: Estimate) -> Group:
    """Does it fit, and if not: which knob to turn first."""
    peak, available = estimate.memory.peak, estimate.available
    hardware = estimate.hardware
    room = f"{_gib(available)} of {_gib(estimate.gpu_bytes)} GiB are for tensors"
    reserve = f"{hardware.context_gib:g} GiB for the CUDA context, {hardware.fragmentation:.0%} lost to fragmentation"
    if estimate.fits:
        return Group(f"[b green]fits[/]: {_gib(peak)} GiB at the peak; {room} ({reserve}).")
    lines = f"[b red]does not fit[/]: {_gib(peak)} GiB at the peak; {room} ({reserve})."
    found = knobs(estimate)
    table = _table("Turn these first; each is priced alone", "change", "saves GiB", "peak GiB", "price of it")
    for knob in found:
        table.add_row(*_knob_row(knob, peak, available))
    together = combined(estimate)
    if together is None:
        return Group(lines, table, "Even all of them together do not fit: take more GPUs, or a smaller model.")
    words = " ".join(together[0])
    return Group(lines, table, f"[b]Fits with[/] {words} ({_gib(together[1])} GiB).")


def _knob_row(knob: Knob, peak: int, available: int) -> tuple[str, ...]:
    return knob.change, _gib(peak - knob.peak), _mark(knob.peak, available), knob.note


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="left" if column == "price of it" else "right")
    return table


def _gib(size: int) -> str:
    """Two digits below 10 GiB; small models in fractions."""
    value = size / GIB
    return "-" if not size else f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.01 else f"{value:.4f}"


def _mark(size: int, available: int) -> str:
    return f"[{'green' if size <= available else 'red'}]{_gib(size)}[/]"


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min"
