"""From records to figures: means, intervals, failures, and whether looking goes with being right."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from sayo.evaluation.intervals import mean_interval
from sayo.evaluation.layers import Samples, layer_figures, tas_and_correctness
from sayo.evaluation.records import ATTENTION, mean_of_known


def summary_of(samples: Samples) -> dict[str, Any]:
    """The figures of all questions, and `by_type`.

    Args:
        samples: records (see `records.question_record`).

    Returns:
        `num_questions`, `num_completions`; `accuracy` (mean over the questions that were answered: failures are
        counted in `failed` by kind, never as wrong answers) with `accuracy_interval`; `no_answer` (responses in which
        no answer was found, counted as wrong); `truncated`; the means of `records.ATTENTION` with `intervals`;
        `tas_and_correctness` (see `layers`); `tas_by_layer` (see `layers.layer_figures`).
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
    answered = [
        answer
        for sample in samples
        for text, answer in zip(sample["completions"], sample["answers"], strict=True)
        if text is not None
    ]
    intervals = {name: mean_interval(values) for name, values in known.items() if values}
    means = {name: mean_of_known(values) for name, values in known.items()}
    return {
        "num_questions": len(samples),
        "num_completions": len(answered),
        "num_scored": len(known["accuracy"]),
        "no_answer": answered.count(None),
        "truncated": sum(sample["truncated"] for sample in samples),
        "failed": dict(sorted(Counter(error["kind"] for sample in samples for error in sample["errors"]).items())),
        "regions_dropped": sum(sample["regions_dropped"] for sample in samples),
        **means,
        "mean_length": means["length"],
        "accuracy_interval": intervals.pop("accuracy", None),
        "intervals": intervals,
        "tas_and_correctness": tas_and_correctness(samples),
    }
