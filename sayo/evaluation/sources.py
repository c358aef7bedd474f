"""Where a task's rows come from: the hub, a local copy of the data set, or one JSON file beside each picture."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Image, List, load_dataset
from PIL import Image as PILImage
from PIL import ImageOps

from sayo.evaluation.tasks import Task, TaskError

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


def load_rows(task: Task, path: str | Path | None = None, config: str | None = None) -> Dataset:
    """All rows of a task's split, pictures still encoded (they are decoded one by one; see `decode_image`).

    Args:
        path: a local copy (folder or file) instead of the task's `dataset`.
        config: another configuration than the task's own.

    Raises:
        TaskError: nothing there, or it cannot be read; says how to fetch it.
    """
    config = config or task.config
    place = path or task.dataset
    if place is None:
        raise TaskError(f"Task {task.name} names no data set: say where it is with `--tasks {task.name}=PATH`.")
    try:
        rows = _load(task, Path(place), config) if Path(place).exists() else _from_hub(task, str(place), config)
    except TaskError:
        raise
    except Exception as error:  # whatever `datasets` meets in foreign files or on the way to the hub
        reason = (str(error) or type(error).__name__).splitlines()[0]
        fetch = (
            ""
            if Path(place).exists()
            else f" Fetch it with `hf download {place} --repo-type dataset --local-dir DIR/{task.name}` where there "
            "is a network, and pass `--data-root DIR`."
        )
        raise TaskError(f"Task {task.name}: {place} cannot be loaded ({reason}).{fetch}") from None
    return _undecoded(rows)


def decode_image(value: Any) -> PILImage.Image:
    """A picture, upright and in RGB, from what data sets store: PIL, `{bytes, path}`, bytes, base64 text or a path.

    Raises:
        ValueError: it is missing or cannot be decoded.
    """
    try:
        image = _open(value)
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, binascii.Error, PILImage.DecompressionBombError) as error:
        raise ValueError(f"image cannot be decoded: {str(error) or type(error).__name__}") from None


def _open(value: Any) -> PILImage.Image:
    if isinstance(value, PILImage.Image):
        return value
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and len(value) > 1024:  # no path is so long
        value = base64.b64decode(value.partition("base64,")[2] or value, validate=True)
    if isinstance(value, (bytes, bytearray)):
        return PILImage.open(io.BytesIO(value))
    if isinstance(value, str) and value:
        return PILImage.open(value)
    raise ValueError("there is none")


def _from_hub(task: Task, name: str, config: str | None) -> Dataset:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise TaskError(f"Task {task.name}: {name} does not exist.")
    if task.folders is not None:
        from huggingface_hub import snapshot_download

        return _json_beside_pictures(task, Path(snapshot_download(name, repo_type="dataset")))
    return load_dataset(name, config, split=task.split)


def _load(task: Task, path: Path, config: str | None) -> Dataset:
    if task.folders is not None:
        return _json_beside_pictures(task, path)
    if path.is_file():
        return _from_files(task, [path])
    if config and (path / config).is_dir():
        path = path / config
    elif (path / "README.md").is_file():
        return load_dataset(str(path), config, split=task.split, cache_dir=_own_cache(path))
    for suffix in _READERS:
        files = sorted(path.rglob(f"*{suffix}"))
        named = [file for file in files if task.split in file.stem or file.parent.name == task.split]
        if files:
            return _from_files(task, named or files)
    raise TaskError(f"Task {task.name}: {path} holds no parquet, JSON or CSV file.")


def _own_cache(path: Path) -> str:
    """A cache for this folder as it is now: the library's own knows a folder by its name, and would mix up two."""
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(path.rglob("*"))]
    digest = hashlib.sha256(repr((str(path.resolve()), files)).encode()).hexdigest()[:16]
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "sayo" / digest)


def _from_files(task: Task, files: list[Path]) -> Dataset:
    reader = _READERS.get(files[0].suffix)
    if reader is None:
        raise TaskError(f"Task {task.name}: {files[0]} is none of {', '.join(_READERS)}.")
    return load_dataset(reader, data_files=[str(file) for file in files], split="train")


def _json_beside_pictures(task: Task, root: Path) -> Dataset:
    records = []
    for folder in task.folders or ():
        for file in sorted((root / folder).glob("*.json")):
            picture = next((p for s in _PICTURES if (p := file.with_suffix(s)).is_file()), None)
            record = json.loads(file.read_text(encoding="utf-8"))
            records.append({**record, "image": picture and str(picture), "folder": folder, "name": file.stem})
    if not records:
        raise TaskError(f"Task {task.name}: no .json file in {', '.join(task.folders or ())} of {root}.")
    keys = dict.fromkeys(key for record in records for key in record)
    return Dataset.from_list([{key: record.get(key) for key in keys} for record in records])


def _undecoded(rows: Dataset) -> Dataset:
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            rows = rows.cast_column(name, List(Image(decode=False)))
    return rows
