"""Where an export is written: beside its destination first, under its name only when it is finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sayo.export.checkpoint import Checkpoint, ExportError


def check_destination(out: Path, source: Checkpoint, overwrite: bool) -> None:
    """Refuse an `out` that would harm the checkpoint, its base or other files."""
    folder = source.folder.resolve()
    if out.resolve() == folder or out.resolve() in folder.parents:
        raise ExportError(f"{out} holds the checkpoint itself; choose another folder.")
    if source.base is not None and Path(source.base).is_dir() and out.resolve() == Path(source.base).resolve():
        raise ExportError(f"{out} is the base model itself; choose another folder.")
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file; choose another name.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise ExportError(f"{out} is not empty. Choose another folder, or replace it with --overwrite.")


@contextmanager
def finished_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name on success and disappears on failure."""
    partial = out.parent / f".{out.name}.partial"
    if partial.exists():  # left by an export that was killed
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.is_dir():
            old = out.parent / f".{out.name}.replaced"
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
            partial.rename(out)
            shutil.rmtree(old)
        else:
            partial.rename(out)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def share(folder: Path) -> None:
    """safetensors writes files that only their owner can read; a model is for sharing."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~mask)
