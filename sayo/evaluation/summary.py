"""From records to figures: means, intervals, failures, and whether looking goes with being right, layer by layer.

Layers differ. In the toy world one of three tells right from wrong answers; rewarding attention in another one lowered
accuracy. So the layer to reward is measured before training, on the policy that training starts from.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sayo.evaluation.intervals import association, mean_interval
from sayo.evaluation.records import ATTENTION
from sayo.metrics.lookback import mean_of_known

Samples = Sequence[Mapping[str, Any]]


def summary_of(samples: Samples) -> dict[str, Any]:
    """The figures of all questions and `by_type`, from records of `records.question_record`.

    Returns:
        `num_questions`, `num_completions`; `accuracy` (mean over the questions that were answered: failures are
        counted in `failed` by kind, never as wrong answers) with `accuracy_interval`; `no_answer` (responses in which
        no answer was found, counted as wrong); `truncated`; the means of `records.ATTENTION` with `intervals`;
        `tas_and_correctness`; `tas_by_layer` (see `layer_figures`).
    """
    by_type = defaultdict(list)
    for sample in samples:
        by_type[sample["question_type"]].append(sample)
    return {
        **_figures(samples),
        "tas_by_layer": layer_figures(samples),
        "by_type": {name: _figures(of_type) for name, of_type in sorted(by_type.items())},
    }


def _figures(samples: Samples) -> dict[str, Any]:
    names = ("accuracy", *ATTENTION, "length")
    known = {name: [sample[name] for sample in samples if sample[name] is not None] for name in names}
    failed = Counter(error["kind"] for sample in samples for error in sample["errors"])
    intervals = {name: mean_interval(values) for name, values in known.items() if values}
    means = {name: mean_of_known(values) for name, values in known.items()}
    return {
        "num_questions": len(samples),
        "num_completions": sum(len(sample["completions"]) for sample in samples) - failed.total(),
        "num_scored": len(known["accuracy"]),
        "no_answer": sum(sample["answers"].count(None) for sample in samples) - failed.total(),
        "truncated": sum(sample["truncated"] for sample in samples),
        "failed": dict(sorted(failed.items())),
        "regions_dropped": sum(sample["regions_dropped"] for sample in samples),
        **means,
        "mean_length": means["length"],
        "accuracy_interval": intervals.pop("accuracy", None),
        "intervals": intervals,
        "tas_and_correctness": tas_and_correctness(samples),
    }


def tas_and_correctness(samples: Samples, layer: int | None = None) -> dict[str, Any]:
    """`intervals.association` of TAS with being right, of the reported layers or of one layer alone."""
    points = []
    for number, sample in enumerate(samples):
        for values, score in zip(sample["responses"], sample["correct"], strict=False):
            tas = values["tas"] if layer is None else values["tas_by_layer"].get(str(layer))
            if tas is not None and score is not None:
                points.append((tas, score, number))
    return association(points)


def layer_figures(samples: Samples) -> dict[str, Any] | None:
    """TAS of every layer alone, how it goes with being right, and the layer to reward.

    Returns:
        `by_layer`: `tas_and_correctness` of each `layer`. `best`: the layer whose AUC is the largest on every second
        question, with its `auc` and `auc_interval` on the others (it was not chosen by those, so having tried many
        layers does not flatter it) and `clear`: that interval lies above 0.5. `best` is None where no layer's AUC is
        defined. None for fewer than two layers.
    """
    looked = [sample for sample in samples if any(values["tas_by_layer"] for values in sample["responses"])]
    layers = {int(layer) for sample in looked for values in sample["responses"] for layer in values["tas_by_layer"]}
    if len(layers) < 2:
        return None
    by_layer = [{"layer": layer, **tas_and_correctness(looked, layer)} for layer in sorted(layers)]
    aucs = {layer: tas_and_correctness(looked[::2], layer)["auc"] for layer in sorted(layers)}
    layer = max((layer for layer, auc in aucs.items() if auc is not None), key=aucs.get, default=None)
    figures = tas_and_correctness(looked[1::2], layer)
    auc, interval = figures["auc"], figures["auc_interval"]
    best = {"layer": layer, "auc": auc, "auc_interval": interval, "clear": interval is not None and interval[0] > 0.5}
    return {"by_layer": by_layer, "best": None if layer is None or auc is None else best}


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
