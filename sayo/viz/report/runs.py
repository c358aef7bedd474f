"""What a run folder holds for its report. Whatever is absent is named, never guessed."""

import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from sayo.errors import SayoError
from sayo.evaluation.journal import read_records

T = TypeVar("T")


class ReportError(SayoError, ValueError):
    """There is nothing to report, or an input cannot be read; the message says what to do."""


@dataclass(frozen=True)
class HeldOut:
    """An evaluation folder of `sayo evaluate`: one policy, asked the held-out questions.

    Attributes:
        folder: where it lies; image paths of the samples are relative to it.
        summary: means over all questions, and `by_type`.
        samples: question id -> its record (question, completions, correctness, regions, image, map key).
        maps: map key -> `(rows, columns)` float32, attention of the deciding tokens on the image's cells.
    """

    folder: Path
    summary: dict[str, Any]
    samples: dict[str, dict[str, Any]]
    maps: dict[str, np.ndarray]

    def map_of(self, question_id: str) -> np.ndarray | None:
        """`(rows, columns)` attention of a question, or None."""
        values = self.maps.get(str(self.samples[question_id].get("map")))
        return values if values is not None and np.isfinite(values).all() and values.sum() > 0 else None


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        name: unique among the runs of one page.
        recipe: the resolved recipe.
        history: the trainer's `log_history`, one dictionary of metrics per logged step.
        before, after: evaluations on held-out questions, None when missing.
        missing: what the folder does not hold, for people.
    """

    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    before: HeldOut | None = None
    after: HeldOut | None = None
    missing: list[str] = field(default_factory=list)

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """`(steps, values)`, float64, of the logged entries in which `key` is a finite number."""
        points = [(entry["step"], entry[key]) for entry in self.history if is_number(entry.get(key))]
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps, dtype=float), np.array(values, dtype=float)

    def reward_parts(self) -> list[str]:
        """Names of the reward functions that were logged, in order of first appearance."""
        keys = dict.fromkeys(key for entry in self.history for key in entry)
        return [key[8:-5] for key in keys if key.startswith("rewards/") and key.endswith("/mean")]


def load_run(folder: Path, name: str) -> Run:
    """Read a run folder; nothing in it is required. One evaluation, right in `evaluation/`, counts as after training.

    Raises:
        ReportError: the folder does not exist, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder} is not a folder. Name folders that `sayo train` wrote (its trainer.output_dir).")
    evaluation = folder / "evaluation"
    is_single = not (evaluation / "after").is_dir() and (evaluation / "samples.jsonl").is_file()
    logs = [*folder.glob("trainer_state.json"), *folder.glob("checkpoint-*/trainer_state.json")]
    longest = max((_read(path, _json) for path in logs), key=lambda state: state.get("global_step") or 0, default={})
    parts = {
        "recipe": _read(folder / "recipe.yaml", lambda path: yaml.safe_load(path.read_text(encoding="utf-8"))),
        "environment": _read(folder / "environment.json", _json),
        "history": longest.get("log_history"),
        "before": load_held_out(evaluation / "before"),
        "after": load_held_out(evaluation if is_single else evaluation / "after"),
    }
    labels = {"history": "the training log (trainer_state.json)", "recipe": "the resolved recipe (recipe.yaml)"}
    labels |= {moment: f"held-out answers {moment} training (evaluation/{moment})" for moment in ("before", "after")}
    missing = [labels.get(key, f"the {key} ({key}.json)") for key, value in parts.items() if not value]
    return Run(name, **{key: value for key, value in parts.items() if value}, missing=missing)


def load_held_out(folder: Path) -> HeldOut | None:
    """The evaluation in `folder`; None when it does not exist."""
    if not folder.is_dir():
        return None
    samples = {str(record["id"]): record for record in _read(folder / "samples.jsonl", read_records) or []}
    return HeldOut(folder, _read(folder / "summary.json", _json), samples, _read(folder / "maps.npz", _arrays))


def _read(path: Path, parse: Callable[[Path], T]) -> T:
    """What `parse` makes of a file; nothing for a file that does not exist."""
    try:
        return parse(path) if path.is_file() else {}
    except (ValueError, OSError, yaml.YAMLError, zipfile.BadZipFile) as error:
        raise ReportError(f"{path} cannot be read: {error}") from None


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def is_number(value: Any) -> bool:
    """A finite int or float, no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def finite_numbers(values: Any) -> list[float]:
    """The finite numbers of a list, or of a single value; everything else is left out."""
    values = values if isinstance(values, list) else [values]
    return [float(value) for value in values if is_number(value)]
