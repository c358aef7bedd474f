"""Results on disk as they come, so that a run that is killed goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sayo.evaluation.evaluate import save_pictures


class SettingsDiffer(ValueError):
    """The folder holds results of another model, other data or other settings."""


class Store:
    """`samples.jsonl`, one record per line and per question, appended; `settings.json` says what was asked.

    Args:
        folder: made if it is not there.
        settings: everything that the results depend on, JSON values only.
        id_of: index of a question -> its id, to see that the data are still the same.
        overwrite: start again.

    Raises:
        SettingsDiffer: the folder holds something else; names every difference.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], id_of: Callable[[int], str], *, overwrite: bool = False
    ):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "samples.jsonl"
        if overwrite:
            for name in ("samples.jsonl", "settings.json", "summary.json", "maps.npz"):
                (folder / name).unlink(missing_ok=True)
        settings = json.loads(json.dumps(settings))
        self._check_settings(settings)
        self.records = self._read()
        self._check_data(id_of)
        _write(folder / "settings.json", json.dumps(settings, indent=2) + "\n")
        self.maps = _load_maps(folder / "maps.npz")
        self._file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def is_done(self, index: int) -> bool:
        """Whether the question was asked without any failure; failures are tried again by the next run."""
        return index in self.records and not self.records[index]["errors"]

    def append(self, record: dict[str, Any]) -> None:
        """Write a record down, at once. A later record of the same question replaces an earlier one."""
        self.records[record["index"]] = record
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def add_map(self, key: str, values: np.ndarray, image: Any) -> None:
        """Keep an attention map and its picture."""
        self.maps[key] = values
        save_pictures(self.folder, self.maps, {key: image})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Put the records in the order of their questions, one line each, and write `summary.json`."""
        self._file.close()
        lines = (json.dumps(self.records[i]) + "\n" for i in sorted(self.records))
        _write(self.path, "".join(lines))
        if not (self.folder / "maps.npz").is_file():
            save_pictures(self.folder, {}, {})
        _write(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        path = self.folder / "settings.json"
        if not path.is_file():
            if self.path.is_file():
                raise SettingsDiffer(
                    f"{self.path} is there without settings.json, so nobody can tell how it was made. Choose another "
                    "--out, or start again with --overwrite."
                )
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"  {key}: {before.get(key)!r} there, {settings.get(key)!r} now"
            for key in sorted({*before, *settings})
            if before.get(key) != settings.get(key)
        ]
        if changed:
            raise SettingsDiffer(
                f"{self.folder} holds results of other settings:\n"
                + "\n".join(changed)
                + "\nUse the same settings to "
                "go on, choose another --out, or start again with --overwrite."
            )

    def _read(self) -> dict[int, dict[str, Any]]:
        """Records by question. A last line without its end was torn when the run was killed: it is cut off."""
        if not self.path.is_file():
            return {}
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        records = {}
        for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], 1):
            try:
                record = json.loads(line)
                records[int(record["index"])] = record
            except (ValueError, KeyError, TypeError) as error:
                raise SettingsDiffer(
                    f"{self.path}, line {number} is no record ({error}). Repair it, or start again with --overwrite."
                ) from None
        return records

    def _check_data(self, id_of: Callable[[int], str]) -> None:
        for index, record in self.records.items():
            try:
                now = id_of(index)
            except IndexError:  # a smaller --limit: the record stays, and is not counted
                continue
            if record["id"] != now:
                raise SettingsDiffer(
                    f"{self.folder} holds results of other data: question {index} was {record['id']!r} and is "
                    f"{now!r} now. Choose another --out, or start again with --overwrite."
                )


def _load_maps(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
