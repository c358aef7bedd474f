"""Checkpoint folders: which one counts, which is torn, and which may go.

A checkpoint counts once its `COMPLETE` file is there. Rank 0 writes it, last of all, after every rank has finished and
all files are on the disk; it lists them with their sizes and digests, so that a file lost or changed later is an error
with its name, not a silent difference.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from xxhash import xxh3_128

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


def mark_complete(checkpoint: Path, digests: Mapping[str, str], **facts: Any) -> None:
    """Write `COMPLETE` with the files' digests and the launch's `world_size` and `sharding`.

    Call on rank 0 only, when all ranks have flushed. CheckpointError where a rank's part, or a digest, is missing.
    """
    sizes = file_sizes(checkpoint)
    parts = [f"training_state_{rank}.pt" for rank in range(0 if facts["model_only"] else facts["world_size"])]
    if lost := [name for name in [*parts, *sizes] if name not in sizes or name not in digests]:
        raise CheckpointError(f"not all ranks see {', '.join(lost)}: do all machines share this folder?")
    draft = checkpoint / UNFINISHED
    draft.write_text(json.dumps({**facts, "files": sizes, "digests": digests}, indent=1))
    _sync(draft)
    draft.replace(checkpoint / MARKER)
    _sync(checkpoint)


def file_sizes(checkpoint: Path) -> dict[str, int]:
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != UNFINISHED)
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}


def flush(checkpoint: Path) -> None:
    """Force what this machine wrote, files and folders, to the disk: a power cut must not take what counts."""
    for path in [*checkpoint.rglob("*"), checkpoint, checkpoint.parent]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name -> 128-bit xxh3 digest of the file's bytes: against damage and mistakes, not against malice."""
    names = list(names)
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True))


def _digest(file: Path) -> str:
    state, buffer = xxh3_128(), memoryview(bytearray(2**22))
    with file.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            state.update(buffer[:size])
    return state.hexdigest()


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


def read_marker(checkpoint: Path) -> dict[str, Any]:
    """What `COMPLETE` says; CheckpointError where it is torn, or a file that it lists is missing or cut."""
    try:
        values = json.loads((checkpoint / MARKER).read_text())
        listed = values["files"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        values, listed = {}, [(MARKER, None)]
    sizes = file_sizes(checkpoint)
    if lost := [name for name, size in listed if sizes.get(name) != size]:
        raise CheckpointError(
            f"{checkpoint} was complete once, but these files are missing or cut: {', '.join(lost)}. Bring them back "
            "(several machines must share the storage of output_dir), or remove the folder to resume from the one "
            "before it."
        )
    return values


def check_digests(checkpoint: Path, marker: Mapping[str, Any], names: Iterable[str]) -> None:
    """CheckpointError where one of the files `names` is not what was written; older markers have no digests."""
    written = marker.get("digests", {})
    found = digests(checkpoint, [name for name in names if name in written])
    if changed := [name for name, digest in found.items() if digest != written[name]]:
        raise CheckpointError(
            f"{checkpoint} is damaged: {', '.join(changed)} changed since it was written. Bring the file back, or "
            "remove the folder to take the one before it."
        )


def check_fits(checkpoint: Path, world_size: int, sharding: str, rank: int = 0) -> str:
    """CheckpointError where this launch cannot resume exactly: torn, damaged, weights only, another kind of launch.

    Each of the `world_size` ranks looks at its share of the files. Returns the digest of the marker, on which all
    ranks must agree.
    """
    weights = f"start a new run from the weights: sayo export {checkpoint} --out WEIGHTS, then "
    weights += "model.name_or_path=WEIGHTS trainer.output_dir=NEW_FOLDER (optimizer and data order start anew)."
    if not is_complete(checkpoint):
        raise CheckpointError(
            f"{checkpoint} has no {MARKER} file: its save never finished, or sayo did not write it. Take another one "
            "(`resume=auto` takes the newest complete one), or start anew from its weights: "
            f"model.name_or_path={checkpoint} trainer.output_dir=NEW_FOLDER."
        )
    marker = read_marker(checkpoint)
    if marker.get("model_only"):
        raise CheckpointError(
            f"{checkpoint} was written with trainer.save_only_model: it has no optimizer and no random states. Remove "
            f"it to resume from the one before it, if there is one, or {weights}"
        )
    if (marker["world_size"], marker["sharding"]) != (world_size, sharding):
        raise CheckpointError(
            f"{checkpoint} was written by {marker['world_size']} process(es) with sharding {marker['sharding']}; this "
            f"launch has {world_size} with {sharding}. Exact resume needs the same --num_processes and accelerate "
            f"file. For another launch, {weights}"
        )
    check_digests(checkpoint, marker, list(marker["files"])[rank::world_size])
    return _digest(checkpoint / MARKER)


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
