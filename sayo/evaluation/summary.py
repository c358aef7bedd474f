"""From the records of a task to its figures: means, intervals, failures, and whether looking goes with being right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sayo.evaluation.layers import layer_figures
from sayo.evaluation.records import ATTENTION
from sayo.evaluation.scoring import yes_no_reference
from sayo.evaluation.statistics import association, mean_interval

Samples = Sequence[Mapping[str, Any]]


def summarise(samples: Samples, scorer: str | None = None) -> dict[str, Any]:
    """The figures of all questions, and `by_type`.

    Args:
        samples: records (see `records.question_record`).
        scorer: "yes_no" adds precision, recall, F1 and the share of "yes" (POPE's figures).

    Returns:
        `num_questions`, `num_completions`; `accuracy` (mean over the questions that were answered: failures are
        counted in `failed` by kind, never as wrong answers) with `accuracy_interval`; `no_answer` (responses in which
        no answer was found, counted as wrong); `truncated`; the means of `records.ATTENTION` with `intervals`;
        `tas_and_correctness` (see `statistics.association`); `tas_by_layer` (see `layers.layer_figures`); `groups`:
        share of groups answered right throughout.
    """
    by_type = defaultdict(list)
    for sample in samples:
        by_type[sample["question_type"]].append(sample)
    whole = _figures(samples)
    if scorer == "yes_no":
        whole["yes_no"] = _yes_no(samples)
    whole["tas_by_layer"] = layer_figures(samples)
    groups = _groups(samples)
    if groups:
        whole["groups"] = groups
    return {**whole, "by_type": {name: _figures(own) for name, own in sorted(by_type.items())}}


def _figures(samples: Samples) -> dict[str, Any]:
    failures = Counter(error["kind"] for sample in samples for error in sample["errors"])
    scores = [sample["accuracy"] for sample in samples if sample["accuracy"] is not None]
    figures: dict[str, Any] = {
        "num_questions": len(samples),
        "num_completions": sum(text is not None for sample in samples for text in sample["completions"]),
        "num_scored": len(scores),
        "accuracy": _mean(scores),
        "accuracy_interval": mean_interval(scores),
        "no_answer": sum(
            text is not None and answer is None
            for sample in samples
            for text, answer in zip(sample["completions"], sample["answers"], strict=True)
        ),
        "truncated": sum(sample["truncated"] for sample in samples),
        "failed": dict(sorted(failures.items())),
        "regions_dropped": sum(sample["regions_dropped"] for sample in samples),
    }
    known = {name: [s[name] for s in samples if s[name] is not None] for name in (*ATTENTION, "length")}
    figures |= {name: _mean(values) for name, values in known.items()}
    figures["mean_length"] = figures["length"]
    figures["intervals"] = {name: mean_interval(values) for name, values in known.items() if values}
    figures["tas_and_correctness"] = _tas_and_correctness(samples)
    return figures


def _tas_and_correctness(samples: Samples) -> dict[str, Any] | None:
    found = [
        (values["tas"], score, number)
        for number, sample in enumerate(samples)
        for values, score in zip(sample["responses"], sample["correct"], strict=False)
        if values["tas"] is not None and score is not None
    ]
    return association(*zip(*found, strict=True)) if found else None


def _yes_no(samples: Samples) -> dict[str, float | None]:
    pairs = [
        (yes_no_reference(str(sample["solution"])), answer)
        for sample in samples
        for text, answer in zip(sample["completions"], sample["answers"], strict=True)
        if text is not None
    ]
    hits = sum(gold == "yes" == answer for gold, answer in pairs)
    said, real = sum(answer == "yes" for _, answer in pairs), sum(gold == "yes" for gold, _ in pairs)
    return {
        "precision": hits / said if said else None,
        "recall": hits / real if real else None,
        "f1": 2 * hits / (said + real) if said + real else None,
        "yes_share": said / len(pairs) if pairs else None,
    }


def _groups(samples: Samples) -> dict[str, dict[str, Any]]:
    """Group name -> share of groups in which every response to every question is right; failures leave a group out."""
    members: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        for name, value in sample["groups"].items():
            members[name][value].append(sample["accuracy"])
    found = {}
    for name, groups in members.items():
        whole = [float(all(score >= 1 for score in scores)) for scores in groups.values() if None not in scores]
        found[name] = {"all_right": _mean(whole), "interval": mean_interval(whole), "num_groups": len(whole)}
    return found


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
