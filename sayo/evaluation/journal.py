"""Results on disk as they come, so that a run that is killed resumes where it was."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sayo.errors import SayoError


class JournalError(SayoError):
    """The folder holds results of another model, other data or other settings."""


class Journal:
    """`samples.jsonl`, one record per line and per question, appended; `settings.json` says what was asked.

    Args:
        folder: made if it is not there.
        settings: everything that the results depend on, JSON values only.
        ids: of all questions, to see that the data are still the same.
        overwrite: start again.

    Attributes:
        records: index of a question -> its record.
        maps: key -> attention map.

    Raises:
        JournalError: the folder holds something else; names every difference.
    """

    def __init__(
        self, folder: str | Path, settings: Mapping[str, Any], ids: Sequence[str], *, overwrite: bool = False
    ):
        self.folder = Path(folder)
        self.path = self.folder / "samples.jsonl"
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        for name in ("samples.jsonl", "settings.json", "summary.json", "maps.npz") if overwrite else ():
            (self.folder / name).unlink(missing_ok=True)
        settings = json.loads(json.dumps(settings))
        self._check_settings(settings)
        if self.path.is_file():  # a last line without its end was torn when the run was killed
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        self._file = self.path.open("a", encoding="utf-8")
        self.records = {record["index"]: record for record in read_records(self.path)}
        for index, record in self.records.items():
            if index < len(ids) and record["id"] != ids[index]:  # with a smaller --limit a record stays, uncounted
                raise JournalError(
                    f"{folder} holds results of other data: question {index} was {record['id']!r}, now it is "
                    f"{ids[index]!r}. Choose another --out, or start again with --overwrite."
                )
        _write(self.folder / "settings.json", json.dumps(settings, indent=2) + "\n")
        maps = self.folder / "maps.npz"
        self.maps: dict[str, np.ndarray] = dict(np.load(maps, allow_pickle=False)) if maps.is_file() else {}

    def close(self) -> None:
        self._file.close()

    def is_done(self, index: int) -> bool:
        """Whether the question was asked without any failure; failures are tried again by the next run."""
        return index in self.records and not self.records[index]["errors"]

    def append(self, record: dict[str, Any]) -> None:
        """Write a record down, at once. A later record of the same question replaces an earlier one."""
        self.records[record["index"]] = record
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def add_map(self, record: dict[str, Any], values: np.ndarray, image: Any) -> None:
        """Keep an attention map and its picture; the record says where they are."""
        key = f"{record['index']:06d}"
        record |= {"map": key, "image": f"images/{key}.png"}
        image.convert("RGB").save(self.folder / record["image"])
        self.maps[key] = values
        np.savez_compressed(self.folder / "maps.npz", **self.maps)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Put the records in the order of their questions, one line each, and write `summary.json`."""
        _write(self.path, "".join(json.dumps(self.records[index]) + "\n" for index in sorted(self.records)))
        np.savez_compressed(self.folder / "maps.npz", **self.maps)
        _write(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        path, way_out = self.folder / "settings.json", "Choose another --out, or start again with --overwrite."
        if not path.is_file():
            if self.path.is_file():
                raise JournalError(f"{self.path} has no settings.json, so nobody can tell how it was made. {way_out}")
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{key}: {before.get(key)!r} there, {settings.get(key)!r} now"
            for key in sorted({*before, *settings})
            if before.get(key) != settings.get(key)
        ]
        if changed:
            raise JournalError(f"{self.folder} holds results of other settings ({'; '.join(changed)}). {way_out}")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; one that was torn when a run was killed is left out."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def files_mark(path: str, pattern: str = "*") -> str | None:
    """A mark that changes when local files do (names, sizes, times); None for what is not here (a hub id).

    A checkpoint that was trained on under its old name must not be given the old results. Results may lie below it, so
    sub-folders count only if the pattern names them.
    """
    root = Path(path)
    if not root.exists():
        return None
    files = [root] if root.is_file() else sorted(root.glob(pattern))
    kept = [file for file in files if file.suffix in (".safetensors", ".bin", ".json", ".parquet")]
    marks = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in kept]
    return hashlib.sha1("\n".join(marks).encode()).hexdigest()[:12]


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
