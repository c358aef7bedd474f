"""Checkpoint folders: which one counts, which is torn, and which may go.

A checkpoint counts once its `COMPLETE` file is there. Rank 0 writes it, last of all, after every rank has finished;
it lists the files and their sizes, so that a file lost later is an error with its name, not a silent difference.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sayo.errors import SayoError

MARKER = "COMPLETE"
UNFINISHED = "SAVING"  # there while the ranks write; becomes the marker


class CheckpointError(SayoError, ValueError):
    """A checkpoint cannot be written, or this launch cannot resume from it; the message says what can be done."""

    exit_status = 1


def checkpoints(run_dir: Path) -> list[Path]:
    """All `checkpoint-<step>` folders, oldest step first, torn ones included."""
    return sorted((path for path in run_dir.glob("checkpoint-*") if path.name[11:].isdigit()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done when the checkpoint was taken."""
    return int(checkpoint.name[11:])


def is_complete(checkpoint: Path) -> bool:
    return (checkpoint / MARKER).is_file()


def begin(checkpoint: Path) -> None:
    """Make an empty folder to save into, without the torn remains of an earlier try; call on rank 0 only."""
    if checkpoint.exists():
        remove(checkpoint)
    checkpoint.mkdir(parents=True)
    (checkpoint / UNFINISHED).touch()


def mark_complete(checkpoint: Path, world_size: int, sharding: str) -> None:
    """Write `COMPLETE`; call on rank 0 only, after a barrier."""
    values = {"world_size": world_size, "sharding": sharding, "files": _file_sizes(checkpoint)}
    draft = checkpoint / UNFINISHED
    with draft.open("w") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(checkpoint / MARKER)


def _file_sizes(checkpoint: Path) -> dict[str, int]:
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != UNFINISHED)
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}


def newest_complete(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that counts, and one message for each torn one that was skipped on the way to it."""
    skipped = []
    for checkpoint in reversed(checkpoints(run_dir)):
        if is_complete(checkpoint):
            return checkpoint, skipped
        is_torn = (checkpoint / UNFINISHED).is_file()
        reason = "is torn (the run ended while it was written)" if is_torn else f"has no {MARKER} file"
        skipped.append(f"{checkpoint} {reason}: skipped.")
    return None, skipped


def check_fits(checkpoint: Path, world_size: int, sharding: str) -> None:
    """CheckpointError where this launch cannot resume exactly: torn, a file missing or cut, another kind of launch."""
    if not is_complete(checkpoint):
        raise CheckpointError(
            f"{checkpoint} has no {MARKER} file: its save never finished, or sayo did not write it. Take another one "
            "(`resume=auto` takes the newest complete one), or start anew from its weights: "
            f"model.name_or_path={checkpoint} trainer.output_dir=NEW_FOLDER."
        )
    values = json.loads((checkpoint / MARKER).read_text())
    sizes = _file_sizes(checkpoint)
    if lost := [name for name, size in values["files"].items() if sizes.get(name) != size]:
        raise CheckpointError(
            f"{checkpoint} was complete once, but these files are missing or cut: {', '.join(lost)}. Bring them back "
            "(several machines must share the storage of output_dir), or remove the folder to resume from the one "
            "before it."
        )
    if (values["world_size"], values["sharding"]) != (world_size, sharding):
        raise CheckpointError(
            f"{checkpoint} was written by {values['world_size']} process(es) with sharding {values['sharding']}; this "
            f"launch has {world_size} with {sharding}. Exact resume needs the same --num_processes and accelerate "
            f"file. For another launch, start a new run from the weights: sayo export {checkpoint} --out WEIGHTS, "
            "then model.name_or_path=WEIGHTS trainer.output_dir=NEW_FOLDER (optimizer and data order start anew)."
        )


def remove(checkpoint: Path) -> None:
    """Delete a folder, its marker first: a deletion cut short must not leave a checkpoint that looks complete."""
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def prune(run_dir: Path, keep: int | None, protected: str | None = None) -> None:
    """Delete all but the newest `keep` complete checkpoints (None keeps all), and every torn one.

    Call only when a newer one is complete. Folders that sayo did not write are left alone, and so is `protected` (the
    best one of an evaluated run).
    """
    complete = [path for path in checkpoints(run_dir) if is_complete(path)]
    extra = complete[: -max(keep, 1)] if keep is not None else []
    torn = [path for path in checkpoints(run_dir) if (path / UNFINISHED).is_file()]
    for path in [*extra, *torn]:
        if protected is None or path.resolve() != Path(protected).resolve():
            remove(path)


def plain_values(value: Any) -> Any:
    """Tensors, numbers, strings and plain containers: what torch loads without pickle's power, else a TypeError."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()  # a view would be saved with all of its storage
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return [plain_values(item) for item in value]
    raise TypeError(f"cannot be saved in a checkpoint without pickle: {type(value).__name__}")
