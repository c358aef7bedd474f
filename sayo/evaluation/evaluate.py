"""Evaluate a policy on prepared rows: accuracy of sampled answers, attention on the target, and maps to look at."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.layers import LayerSpec
from sayo.evaluation.rollouts import completion_mask, processor_inputs, read_attention, sample_completions
from sayo.geometry import VisualLayout
from sayo.metrics.region import pooled_attention, region_score, target_ratio, tas
from sayo.pictures import response_map
from sayo.rewards import accuracy_reward


@dataclass
class Evaluation:
    """Results of one policy.

    Attributes:
        samples: one mapping per question (see `question_record`).
        maps: key -> `(rows, columns)` attention on the cells of one question's image.
        images: key -> that image (PIL).
        settings: what was asked for.
    """

    samples: list[dict[str, Any]] = field(default_factory=list)
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Means over questions, in all and by question type; None where no question defines a value."""
        by_type = defaultdict(list)
        for sample in self.samples:
            by_type[sample["question_type"]].append(sample)
        types = {name: _means(samples) for name, samples in sorted(by_type.items())}
        return {**_means(self.samples), "by_type": types, **self.settings}

    def save(self, folder: str | Path) -> None:
        """Write `summary.json`, `samples.jsonl`, `maps.npz` and `images/`; what `sayo report` reads."""
        folder = Path(folder)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for key, image in self.images.items():
            image.convert("RGB").save(folder / "images" / f"{key}.png")
        np.savez_compressed(folder / "maps.npz", **self.maps)
        lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in self.samples)
        (folder / "samples.jsonl").write_text("".join(lines))
        (folder / "summary.json").write_text(json.dumps(self.summary(), indent=2) + "\n")


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
    progress: Callable[[Iterable], Iterable] = iter,
) -> Evaluation:
    """Sample answers to every row, grade them, and read where each response looked.

    Judge by sampling: the greedy answer of a policy that looks in the wrong place half of the time can still be right.

    Args:
        rows: prepared rows (a `datasets.Dataset` or a list) of the model's own processor.
        num_samples: completions per question; one is enough at temperature 0.
        batch_size: completions at once.
        layers: decoder layers whose attention is read.
        num_maps: questions with a region whose picture and attention map are kept.
        progress: wraps the batches, e.g. `rich.progress.track`.
    """
    torch.manual_seed(seed)
    was_training = model.training
    model.eval()
    capture = AttentionCapture(model, layers=layers)
    layout = VisualLayout.from_processor(processor, model.config)
    result = Evaluation(settings={"num_samples": num_samples, "temperature": temperature, "layers": capture.layers})
    per_batch = max(1, batch_size // num_samples)
    for start in progress(range(0, len(rows), per_batch)):
        batch = [rows[index] for index in range(start, min(start + per_batch, len(rows)))]
        repeated = [row for row in batch for _ in range(num_samples)]
        inputs = processor_inputs(processor, repeated, model.device)
        ids = sample_completions(model, processor, inputs, max_new_tokens, temperature)
        mask = completion_mask(ids, model.generation_config.eos_token_id)
        traces = read_attention(model, capture, inputs, ids, mask, repeated, temperature)
        texts = [
            processor.tokenizer.decode(row[keep.bool()], skip_special_tokens=True)
            for row, keep in zip(ids, mask, strict=True)
        ]
        for index, row in enumerate(batch):
            own = slice(index * num_samples, (index + 1) * num_samples)
            wants_map = len(result.maps) < num_maps and traces[own.start].has_region and len(row["images"]) == 1
            record = question_record(row, texts[own], traces[own], key=f"q{start + index:05d}" if wants_map else None)
            result.samples.append(record)
            if wants_map:
                cells = layout.cells(*row["images"][0].size)
                result.maps[record["map"]] = grid_map(response_map(traces[own.start]), cells)
                result.images[record["map"]] = row["images"][0]
    model.train(was_training)
    return result


def question_record(
    row: dict[str, Any], texts: list[str], traces: list[AttentionTrace], key: str | None
) -> dict[str, Any]:
    """One question's line of `samples.jsonl`; attention values are means over its completions, None without region."""
    repeat = [row["solution"]] * len(texts), [row.get("answers")] * len(texts)
    correct = accuracy_reward(completions=texts, solution=repeat[0], answers=repeat[1])
    deciding = [pooled_attention(trace, "deciding") for trace in traces if trace.has_region and len(trace)]
    of_token = [pooled_attention(trace, "of_token") for trace in traces if trace.has_region and len(trace)]
    return {
        "id": row["id"],
        "question": row["question"],
        "question_type": row["question_type"],
        "solution": row["solution"],
        "completions": texts,
        "correct": correct,
        "accuracy": _mean(correct),
        "tas": _mean([tas(one.target, one.image) for one in deciding]),
        "tas_of_token": _mean([tas(one.target, one.image) for one in of_token]),
        "region_score": _mean([region_score(one.target, one.image) for one in deciding]),
        "target_ratio": _mean([target_ratio(one.target, one.image) for one in deciding]),
        "image_mass": _mean([one.image_mass for one in deciding]),
        "entropy": _mean([float(trace.entropy.mean()) for trace in traces if len(trace)]),
        "length": _mean([float(len(trace)) for trace in traces]),
        "regions": [{"box": region["box"], "role": region["role"]} for region in row["regions"]],
        "image_size": row["image_sizes"][0] if row["image_sizes"] else None,
        "image": f"images/{key}.png" if key else None,
        "map": key,
    }


def grid_map(values: np.ndarray, cells: Any) -> np.ndarray:
    """`(N,)` -> `(rows, columns)` for a single-grid layout; one row of all tokens for any other."""
    if cells.grid is None:
        return values[None].astype(np.float32)
    columns, rows = cells.grid
    return values.reshape(rows, columns).astype(np.float32)


def _means(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("accuracy", "tas", "tas_of_token", "region_score", "target_ratio", "image_mass", "entropy", "length")
    means = {name: _mean([sample[name] for sample in samples if sample[name] is not None]) for name in names}
    return {**means, "mean_length": means["length"], "num_questions": len(samples)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
