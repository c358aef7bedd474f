"""From records to figures: means, intervals, failures, and whether looking goes with being right, layer by layer.

Layers differ. In the toy world one of three tells right from wrong answers; rewarding attention in another one lowered
accuracy. So the layer to reward is measured before training, on the policy that training starts from.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

from sayo.answers.words import normalize
from sayo.evaluation.intervals import association, clusters_of, mean_interval
from sayo.evaluation.records import ATTENTION, FAITHFULNESS
from sayo.metrics.lookback import mean_of_known

Samples = Sequence[Mapping[str, Any]]


def summary_of(samples: Samples) -> dict[str, Any]:
    """The figures of all questions and `by_type`, from records of `records.question_record`.

    Returns:
        `num_questions`, `num_completions`; `accuracy` (mean over the questions that were answered: failures are
        counted in `failed` by kind, never as wrong answers) with `accuracy_interval`; `no_answer` (responses in which
        no answer was found, counted as wrong); `truncated`; the means of `records.ATTENTION` and
        `records.FAITHFULNESS` with `intervals`;
        `pass_at` and `majority_at` (see `of_several`); `tas_and_correctness`; `tas_by_layer` (see `layer_figures`).
        Intervals are over `num_clusters` clusters of questions.
    """
    clusters = clusters_of([sample.get("links", ()) for sample in samples])
    samples = [{**sample, "cluster": cluster} for sample, cluster in zip(samples, clusters, strict=True)]
    by_type = defaultdict(list)
    for sample in samples:
        by_type[sample["question_type"]].append(sample)
    return {
        **_figures(samples),
        "tas_by_layer": layer_figures(samples),
        "by_type": {name: _figures(of_type) for name, of_type in sorted(by_type.items())},
    }


def _figures(samples: Samples) -> dict[str, Any]:
    names = ("accuracy", *ATTENTION, *FAITHFULNESS, "length")
    of = {name: [sample for sample in samples if sample.get(name) is not None] for name in names}
    known = {name: [sample[name] for sample in known] for name, known in of.items()}
    clusters = {name: [sample["cluster"] for sample in known] for name, known in of.items()}
    failed = Counter(error["kind"] for sample in samples for error in sample["errors"])
    intervals = {name: mean_interval(known[name], clusters[name], name == "accuracy") for name in names if known[name]}
    means = {name: mean_of_known(values) for name, values in known.items()}
    return {
        "num_questions": len(samples),
        "num_clusters": len({sample["cluster"] for sample in samples}),
        "num_completions": sum(len(sample["completions"]) for sample in samples) - failed.total(),
        "num_scored": len(known["accuracy"]),
        "no_answer": sum(sample["answers"].count(None) for sample in samples) - failed.total(),
        "truncated": sum(sample["truncated"] for sample in samples),
        "failed": dict(sorted(failed.items())),
        "regions_dropped": sum(sample["regions_dropped"] for sample in samples),
        **means,
        **of_several(samples),
        "mean_length": means["length"],
        "accuracy_interval": intervals.pop("accuracy", None),
        "intervals": intervals,
        "tas_and_correctness": tas_and_correctness(samples),
    }


def of_several(samples: Samples) -> dict[str, dict[str, float] | None]:
    """Of several responses to each question: `pass_at` and `majority_at`, k -> share of the questions.

    `pass_at`: one of k responses is right (unbiased, of all n that there are; Chen et al. 2021). `majority_at`: the
    answer that the first k give most often is right, the earliest of equally frequent ones. Right answers are one
    answer, however written; wrong ones are told apart by `answers.words.normalize`. Over questions without a failed
    response; None for one response each.
    """
    whole = [sample for sample in samples if sample["correct"] and None not in sample["correct"]]
    n = min((len(sample["correct"]) for sample in whole), default=0)
    if n < 2:
        return {"pass_at": None, "majority_at": None}
    rights = [[score >= 0.5 for score in sample["correct"]] for sample in whole]
    ks = sorted({*(2**power for power in range(n.bit_length())), n})
    votes = [
        [right or normalize(answer or "") for right, answer in zip(right, sample["answers"], strict=True)]
        for right, sample in zip(rights, whole, strict=True)
    ]
    passed = {k: [1 - comb(len(right) - sum(right), k) / comb(len(right), k) for right in rights] for k in ks}
    voted = {k: [Counter(vote[:k]).most_common(1)[0][0] is True for vote in votes] for k in ks}
    return {
        name: {str(k): sum(values) / len(whole) for k, values in figures.items()}
        for name, figures in (("pass_at", passed), ("majority_at", voted))
    }


def tas_and_correctness(samples: Samples, layer: int | None = None) -> dict[str, Any]:
    """`intervals.association` of TAS with being right, of the reported layers or of one layer alone."""
    points = []
    for sample in samples:
        for values, score in zip(sample["responses"], sample["correct"], strict=False):
            tas = values["tas"] if layer is None else values["tas_by_layer"].get(str(layer))
            if tas is not None and score is not None:
                points.append((tas, score, sample["cluster"]))
    return association(points)


def layer_figures(samples: Samples) -> dict[str, Any] | None:
    """TAS of every layer alone, how it goes with being right, and the layer to reward.

    Returns:
        `by_layer`: `tas_and_correctness` of each `layer`. `best`: the layer whose AUC is the largest on every second
        cluster of questions, with its `auc` and `auc_interval` on the others (it was not chosen by those, so having
        tried many layers does not flatter it) and `clear`: that interval lies above 0.5. `best` is None where no
        layer's AUC is defined. None for fewer than two layers.
    """
    looked = [sample for sample in samples if any(values["tas_by_layer"] for values in sample["responses"])]
    layers = {int(layer) for sample in looked for values in sample["responses"] for layer in values["tas_by_layer"]}
    if len(layers) < 2:
        return None
    by_layer = [{"layer": layer, **tas_and_correctness(looked, layer)} for layer in sorted(layers)]
    number = {cluster: n for n, cluster in enumerate(dict.fromkeys(sample["cluster"] for sample in looked))}
    halves = [[sample for sample in looked if number[sample["cluster"]] % 2 == half] for half in (0, 1)]
    aucs = {layer: tas_and_correctness(halves[0], layer)["auc"] for layer in sorted(layers)}
    layer = max((layer for layer, auc in aucs.items() if auc is not None), key=aucs.get, default=None)
    figures = tas_and_correctness(halves[1], layer)
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
