"""What a run folder holds for its report. Whatever is absent or unreadable is named, never guessed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sayo.report.evaluation import Evaluation, load_evaluations


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        name: the folder's name (made unique among the runs of one page).
        recipe: the resolved recipe, empty when it is missing.
        recipe_text: the same as the file says it.
        environment: `environment.json`, empty when it is missing.
        history: the trainer's `log_history`, one dictionary of metrics per logged step.
        before, after: evaluations on held-out questions, None when missing.
        missing: sentences about what was not found.
    """

    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    before: Evaluation | None = None
    after: Evaluation | None = None
    missing: tuple[str, ...] = ()

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """`(steps, values)`, float64, of the logged entries in which `key` is a finite number."""
        points = [(e["step"], e[key]) for e in self.history if _finite(e.get(key)) and _finite(e.get("step"))]
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps, dtype=float), np.array(values, dtype=float)

    def keys(self) -> list[str]:
        """Every logged key, in order of first appearance."""
        return list(dict.fromkeys(key for entry in self.history for key in entry))

    def reward_parts(self) -> list[str]:
        """Names of the reward functions that were logged."""
        keys = self.keys()
        return [
            key[len("rewards/") : -len("/mean")]
            for key in keys
            if key.startswith("rewards/") and key.endswith("/mean")
        ]

    def accuracy_part(self) -> str | None:
        """The reward function that says whether an answer is right."""
        return next((name for name in self.reward_parts() if "accuracy" in name.lower()), None)

    @property
    def steps(self) -> int | None:
        """The last logged step."""
        steps = [entry["step"] for entry in self.history if _finite(entry.get("step"))]
        return int(max(steps)) if steps else None


def load_run(folder: Path, before: Path | None = None, after: Path | None = None) -> Run:
    """Read a run folder; nothing in it is required. `before` and `after` are evaluation folders that lie elsewhere.

    Raises:
        FileNotFoundError: the folder itself does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    missing: list[str] = []
    recipe_text = _text(folder / "recipe.yaml", missing, "the resolved recipe")
    recipe = _parse(yaml.safe_load, recipe_text, folder / "recipe.yaml", missing)
    text = _text(folder / "environment.json", missing, "the environment")
    environment = _parse(json.loads, text, folder / "environment.json", missing)
    evaluations, notes = load_evaluations(folder, before, after)
    missing += notes
    name = folder.resolve().name
    return Run(
        name, recipe, recipe_text, environment, _history(folder, missing), **evaluations, missing=tuple(missing)
    )


def _history(folder: Path, missing: list[str]) -> list[dict[str, Any]]:
    """The longest log among the run's own and those of its checkpoints."""
    best: dict[str, Any] = {}
    for path in sorted({*folder.glob("trainer_state.json"), *folder.glob("checkpoint-*/trainer_state.json")}):
        state = _parse(json.loads, path.read_text(encoding="utf-8"), path, missing)
        if not best or (state.get("global_step") or 0) >= (best.get("global_step") or 0):
            best = state
    if not best.get("log_history"):
        missing.append("the training log (trainer_state.json)")
    return [entry for entry in best.get("log_history") or [] if isinstance(entry, dict)]


def _text(path: Path, missing: list[str], what: str) -> str:
    if path.is_file():
        return path.read_text(encoding="utf-8")
    missing.append(f"{what} ({path.name})")
    return ""


def _parse(parser: Any, text: str, path: Path, missing: list[str]) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = parser(text)
    except (ValueError, yaml.YAMLError) as error:
        missing.append(f"{path.name}, which cannot be read ({str(error).splitlines()[0]})")
        return {}
    return value if isinstance(value, dict) else {}


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def unique_names(runs: Sequence[Path]) -> list[str]:
    """Names of run folders, with as many parent folders as it takes to tell them apart."""
    folders = [path.resolve() for path in runs]
    for depth in range(1, 6):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as `dotted.key -> text`."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
