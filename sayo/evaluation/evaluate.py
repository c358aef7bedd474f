"""Evaluate a policy on prepared rows: accuracy of sampled answers, attention on the region, and maps to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sayo.attention.layers import LayerSpec
from sayo.draw import response_map
from sayo.evaluation.local import LocalModel
from sayo.evaluation.records import Reply, grid_map, question_record
from sayo.evaluation.summary import summarise


@dataclass
class Evaluation:
    """Results of one policy.

    Attributes:
        samples: one mapping per question (see `records.question_record`).
        maps: key -> `(rows, columns)` attention on the cells of one question's image.
        images: key -> that image (PIL).
        settings: what was asked for.
    """

    samples: list[dict[str, Any]] = field(default_factory=list)
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Means over questions with their intervals, in all and by question type; None where nothing defines them."""
        return {**summarise(self.samples), **self.settings}

    def save(self, folder: str | Path) -> None:
        """Write `summary.json`, `samples.jsonl`, `maps.npz` and `images/`; what `sayo report` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_pictures(folder, self.maps, self.images)
        lines = (json.dumps(sample) + "\n" for sample in self.samples)
        (folder / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / "summary.json").write_text(json.dumps(self.summary(), indent=2) + "\n", encoding="utf-8")


def evaluate(
    model: nn.Module,
    processor: Any,
    rows: Sequence[dict[str, Any]],
    *,
    num_samples: int = 4,
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 64,
    layers: LayerSpec = "last",
    num_maps: int = 6,
    seed: int = 0,
    scorer: str = "reward",
    progress: Callable[[Iterable], Iterable] = iter,
) -> Evaluation:
    """Sample answers to every row, grade them, and read where each response looked.

    Judge by sampling: the greedy answer of a policy that looks in the wrong place half of the time can still be right.

    Args:
        rows: prepared rows (a `datasets.Dataset` or a list).
        num_samples: completions per question; one is enough at temperature 0.
        batch_size: completions at once.
        layers: decoder layers whose attention is read.
        num_maps: questions with a region whose picture and attention map are kept.
        scorer: one of `scoring.SCORERS`; "reward" grades as the training reward does.
        progress: wraps the questions, e.g. `rich.progress.track`.
    """
    answerer = LocalModel(
        model,
        processor,
        num_samples=num_samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        layers=layers,
        seed=seed,
    )
    settings = {"num_samples": num_samples, "temperature": temperature, "layers": answerer.capture.layers}
    result = Evaluation(settings=settings)
    asked = ({**rows[index], "index": index} for index in progress(range(len(rows))))
    for row, replies in answerer.answer(asked, attention=True):
        record = question_record(row, replies, scorer)
        if len(result.maps) < num_maps and (found := attention_map(row, replies, answerer)) is not None:
            key = map_key(record)
            result.maps[key], result.images[key] = found, row["images"][0]
        result.samples.append(record)
    return result


def attention_map(row: Mapping[str, Any], replies: Sequence[Reply], model: LocalModel) -> np.ndarray | None:
    """`(rows, columns)` map of the first response to a question of one image and a region; None for any other."""
    trace = replies[0].trace
    if trace is None or not trace.has_region or len(row["images"]) != 1 or len(trace) == 0:
        return None
    return grid_map(response_map(trace), model.layout.cells(*row["images"][0].size))


def map_key(record: dict[str, Any]) -> str:
    """Name the record's map and picture, in the record too."""
    key = f"q{record['index']:05d}"
    record["map"], record["image"] = key, f"images/{key}.png"
    return key


def save_pictures(folder: Path, maps: dict[str, np.ndarray], images: dict[str, Any]) -> None:
    """Write `maps.npz` and `images/`."""
    (folder / "images").mkdir(exist_ok=True)
    for key, image in images.items():
        image.convert("RGB").save(folder / "images" / f"{key}.png")
    np.savez_compressed(folder / "maps.npz", **maps)
