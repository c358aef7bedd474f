"""Which decoder layer's look at the target goes with being right: the layer whose attention is worth rewarding.

Layers differ. In the toy world one of three tells right from wrong answers; rewarding attention in another one lowered
accuracy. So the choice is measured before training, on the policy that training starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sayo.evaluation.statistics import association, mean_interval

Samples = Sequence[Mapping[str, Any]]


def layer_figures(samples: Samples) -> dict[str, Any] | None:
    """TAS of every layer alone, how it goes with being right, and the layer to reward.

    Args:
        samples: records (see `records.question_record`).

    Returns:
        `by_layer`: per layer its mean `tas` with `interval` (over questions) and `statistics.association`. `best`: the
        layer whose AUC is the largest on every second question, with its `auc` and `auc_interval` on the others (it
        was not chosen by those, so having tried many layers does not flatter it) and `clear`: that interval lies above
        0.5. `best` is None where no layer's AUC is defined. None for fewer than two layers.
    """
    points = {layer: _points(samples, layer) for layer in _layers(samples)}
    if len(points) < 2:
        return None
    by_layer = []
    for layer, found in points.items():
        values, _, questions = zip(*found, strict=True)
        means = _means_by_question(values, questions)
        figures = {"layer": layer, "tas": sum(means) / len(means), "interval": mean_interval(means)}
        by_layer.append({**figures, **association(*zip(*found, strict=True))})
    return {"by_layer": by_layer, "best": _best(points)}


def advice(figures: Mapping[str, Any]) -> str:
    """What to do with it, in two lines."""
    best = figures["best"]
    if best is None:
        return "Which layer to reward cannot be told: all answers are right, or all wrong."
    interval = best["auc_interval"]
    shown = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    found = f"layer {best['layer']} (AUC of its TAS {best['auc']:.3f}{shown}, on questions that did not choose it)"
    if best["clear"]:
        return (
            f"Right answers look at the target more than wrong ones, most clearly in {found}.\n"
            f"To reward that layer: trainer.attention_layers={best['layer']}"
        )
    return (
        f"In no layer do right answers surely look at the target more than wrong ones; the best was {found}.\n"
        "Before you reward attention, ask more questions, or sample more answers to each."
    )


def _layers(samples: Samples) -> list[int]:
    named = {layer for sample in samples for values in sample["responses"] for layer in values.get("tas_by_layer", {})}
    return sorted(int(layer) for layer in named)


def _points(samples: Samples, layer: int) -> list[tuple[float, float, int]]:
    """`(tas, score, number of the question)` of every graded response."""
    return [
        (values["tas_by_layer"][str(layer)], score, number)
        for number, sample in enumerate(samples)
        for values, score in zip(sample["responses"], sample["correct"], strict=False)
        if score is not None and str(layer) in values.get("tas_by_layer", {})
    ]


def _best(points: Mapping[int, list[tuple[float, float, int]]]) -> dict[str, Any] | None:
    numbers = sorted({number for found in points.values() for _, _, number in found})
    choosing = set(numbers[::2])
    aucs, rest = {}, {}
    for layer, found in points.items():
        mine, rest[layer] = ([p for p in found if (p[2] in choosing) is half] for half in (True, False))
        figures = association(*zip(*mine, strict=True)) if mine else None
        if figures is not None and figures["auc"] is not None:
            aucs[layer] = figures["auc"]
    if not aucs:
        return None
    layer = max(aucs, key=aucs.__getitem__)
    figures = association(*zip(*rest[layer], strict=True)) if rest[layer] else None
    if figures is None or figures["auc"] is None:
        return None
    interval = figures["auc_interval"]
    clear = interval is not None and interval[0] > 0.5
    return {"layer": layer, "auc": figures["auc"], "auc_interval": interval, "clear": clear}


def _means_by_question(values: Sequence[float], questions: Sequence[int]) -> list[float]:
    sums: dict[int, list[float]] = {}
    for value, question in zip(values, questions, strict=True):
        sums.setdefault(question, []).append(value)
    return [sum(own) / len(own) for own in sums.values()]
