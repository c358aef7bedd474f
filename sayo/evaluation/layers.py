"""Which decoder layer's look at the region goes with being right: the layer whose attention is worth rewarding.

Layers differ. In the toy world one of three tells right from wrong answers; rewarding attention in another one lowered
accuracy. So the choice is measured before training, on the policy that training starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sayo.evaluation.intervals import association, mean_interval

Point = tuple[float, float, int]
"""TAS of a response in one layer, its score, and the number of its question."""


def layer_figures(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """TAS of every layer alone, how it goes with being right, and the layer to reward.

    Args:
        samples: records (see `records.question_record`).

    Returns:
        `by_layer`: per layer its mean `tas` with `interval` (over questions) and `intervals.association`. `best`: the
        layer whose AUC is the largest on every second question, with its `auc` and `auc_interval` on the others (it
        was not chosen by those, so having tried many layers does not flatter it) and `clear`: that interval lies above
        0.5. `best` is None where no layer's AUC is defined. None for fewer than two layers.
    """
    points: dict[int, list[Point]] = {}
    for number, sample in enumerate(samples):
        for values, score in zip(sample["responses"], sample["correct"], strict=False):
            for layer, tas in values["tas_by_layer"].items() if score is not None else ():
                points.setdefault(int(layer), []).append((tas, score, number))
    if len(points) < 2:
        return None
    by_layer = []
    for layer in sorted(points):
        values, _, questions = map(np.array, zip(*points[layer], strict=True))
        means = [float(values[questions == question].mean()) for question in np.unique(questions)]
        figures = {"layer": layer, "tas": float(np.mean(means)), "interval": mean_interval(means)}
        by_layer.append({**figures, **_association(points[layer])})
    return {"by_layer": by_layer, "best": _best(points)}


def advice(figures: Mapping[str, Any]) -> str:
    """What to do with it, in two lines."""
    best = figures["best"]
    if best is None:
        return "Which layer to reward cannot be told: all answers are right, or all wrong."
    interval = best["auc_interval"]
    shown = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    name = f"layer {best['layer']} (AUC of its TAS {best['auc']:.3f}{shown}, on questions that did not choose it)"
    if best["clear"]:
        return (
            f"Right answers look at the region more than wrong ones, most clearly in {name}.\n"
            f"To reward that layer: trainer.attention_layers={best['layer']}"
        )
    return (
        f"In no layer do right answers clearly look at the region more than wrong ones; the best was {name}.\n"
        "Before you reward attention, ask more questions, or sample more answers to each."
    )


def _best(points: Mapping[int, list[Point]]) -> dict[str, Any] | None:
    choosing = set(sorted({number for of_layer in points.values() for _, _, number in of_layer})[::2])
    aucs, held_out = {}, {}
    for layer, of_layer in points.items():
        aucs[layer] = _association([point for point in of_layer if point[2] in choosing]).get("auc")
        held_out[layer] = _association([point for point in of_layer if point[2] not in choosing])
    layer = max((layer for layer in sorted(aucs) if aucs[layer] is not None), key=aucs.get, default=None)
    if layer is None or held_out[layer].get("auc") is None:
        return None
    auc, interval = held_out[layer]["auc"], held_out[layer]["auc_interval"]
    return {"layer": layer, "auc": auc, "auc_interval": interval, "clear": interval is not None and interval[0] > 0.5}


def _association(points: Sequence[Point]) -> dict[str, Any]:
    return association(*zip(*points, strict=True)) if points else {}
