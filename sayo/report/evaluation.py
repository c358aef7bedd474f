"""An evaluation folder: `summary.json`, `samples.jsonl` and `maps.npz` of the policy on held-out questions."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """The policy at one moment, asked the held-out questions.

    Attributes:
        folder: where it lies; image paths of the samples are relative to it.
        summary: means over all questions, and `by_type`.
        samples: question id -> its record (question, completions, correctness, regions, image, map key).
        maps: map key -> `(rows, columns)` float32, attention of the deciding tokens on the image's cells.
    """

    folder: Path
    summary: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, dict[str, Any]] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict)

    def map_of(self, question_id: str) -> np.ndarray | None:
        """`(rows, columns)` attention of a question, or None."""
        return self.maps.get(str(self.samples.get(question_id, {}).get("map")))


def load_evaluations(
    run: Path, before: Path | None = None, after: Path | None = None
) -> tuple[dict[str, Evaluation | None], list[str]]:
    """`before` and `after` of a run, and what is missing; folders that are given win over the run's own.

    A single evaluation, right in `evaluation/`, counts as `after`.
    """
    own = run / "evaluation"
    if after is None:
        single = not (own / "after").is_dir() and (own / "samples.jsonl").is_file()
        after = own if single else own / "after"
    loaded = {
        moment: load_evaluation(folder, moment, folder.relative_to(run) if folder.is_relative_to(run) else folder)
        for moment, folder in (("before", before or own / "before"), ("after", after))
    }
    notes = [note for _, found in loaded.values() for note in found]
    return {moment: evaluation for moment, (evaluation, _) in loaded.items()}, notes


def load_evaluation(folder: Path, moment: str, label: Path) -> tuple[Evaluation | None, list[str]]:
    """The evaluation in `folder` (None when the folder does not exist) and what is missing of it."""
    if not folder.is_dir():
        return None, [f"held-out answers {moment} training ({label})"]
    notes: list[str] = []
    summary = _summary(folder / "summary.json", label, notes)
    samples = _samples(folder / "samples.jsonl", label, notes)
    maps = _maps(folder / "maps.npz", label, notes)
    return Evaluation(folder, summary, samples, maps), notes


def _summary(path: Path, label: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        notes.append(f"{label}/{path.name}")
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(summary, dict):
            return summary
        reason = "not an object"
    except ValueError as error:
        reason = str(error)
    notes.append(f"{label}/{path.name}, which cannot be read ({reason})")
    return {}


def _samples(path: Path, label: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        notes.append(f"{label}/{path.name}")
        return {}
    samples, torn = {}, 0
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            samples[str(record["id"])] = record
        except (ValueError, KeyError, TypeError):
            torn += 1
    if torn:
        notes.append(f"{torn} lines of {label}/{path.name}, which cannot be read")
    return samples


def _maps(path: Path, label: Path, notes: list[str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        notes.append(f"attention maps ({label}/{path.name})")
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            maps = {key: file[key] for key in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        notes.append(f"{label}/{path.name}, which cannot be read ({error})")
        return {}
    usable = {key: m for key, m in maps.items() if m.ndim == 2 and m.size and np.isfinite(m).all() and m.sum() > 0}
    if len(usable) < len(maps):
        notes.append(f"{len(maps) - len(usable)} maps of {label}/{path.name} that are empty or not finite")
    return usable


def per_question(evaluation: Evaluation, key: str) -> dict[str, float]:
    """Question id -> mean over its samples of `correct` or `tas`; questions without a value are left out."""
    found = {question_id: numbers(sample.get(key)) for question_id, sample in evaluation.samples.items()}
    return {question_id: float(np.mean(values)) for question_id, values in found.items() if values}


def numbers(values: Any) -> list[float]:
    """The finite numbers of a list, or of a single value; nulls are left out."""
    values = values if isinstance(values, list) else [values]
    return [float(v) for v in values if isinstance(v, (int, float)) and np.isfinite(v)]


def paired_change(before: Evaluation, after: Evaluation, key: str) -> tuple[float, float] | None:
    """`(mean change, half width of its 95% interval)` over the questions of both; None below two questions.

    The interval is the normal one of the paired differences: the same questions are asked before and after.
    """
    first, second = per_question(before, key), per_question(after, key)
    differences = np.array([second[i] - first[i] for i in first if i in second])
    if len(differences) < 2:
        return None
    return float(differences.mean()), float(1.96 * differences.std(ddof=1) / np.sqrt(len(differences)))
