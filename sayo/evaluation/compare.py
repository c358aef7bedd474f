"""Two evaluations of the same questions: is the difference more than chance?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sayo.evaluation.statistics import mean_interval, sign_test
from sayo.evaluation.tasks import TaskError


def compare(a: str | Path, b: str | Path) -> dict[str, dict[str, Any]]:
    """Compare two folders of `sayo evaluate`, task by task, question by question.

    Returns:
        task -> `paired_difference` of the accuracy, with `tas` where both were read, and `by_type`.

    Raises:
        TaskError: a folder is no evaluation, or they share no task or no question.
    """
    first, second = _evaluations(Path(a)), _evaluations(Path(b))
    shared = [name for name in first if name in second]
    if not shared:
        raise TaskError(f"{a} holds {', '.join(first)}; {b} holds {', '.join(second)}: there is no common task.")
    return {name: _compare_task(name, first[name], second[name]) for name in shared}


def paired_difference(pairs: list[tuple[float, float]]) -> dict[str, Any] | None:
    """B minus A over paired questions.

    Returns:
        `mean_a`, `mean_b`, `difference` with its paired bootstrap `interval`, questions that got better and worse, and
        the exact two-sided `p_value` of those counts: McNemar's test where every score is 0 or 1, else the sign test.
        None without a pair.
    """
    if not pairs:
        return None
    scores = np.asarray(pairs, dtype=np.float64)
    difference = scores[:, 1] - scores[:, 0]
    better, worse = int((difference > 1e-12).sum()), int((difference < -1e-12).sum())
    return {
        "num_questions": len(pairs),
        "mean_a": float(scores[:, 0].mean()),
        "mean_b": float(scores[:, 1].mean()),
        "difference": float(difference.mean()),
        "interval": mean_interval(difference),
        "better": better,
        "worse": worse,
        "p_value": sign_test(better, worse),
        "test": "McNemar, exact" if np.isin(scores, (0.0, 1.0)).all() else "sign test, exact",
    }


def _compare_task(name: str, first: Path, second: Path) -> dict[str, Any]:
    a, b = _samples(first), _samples(second)
    shared = [key for key in a if key in b]
    if not shared:
        raise TaskError(f"Task {name}: {first} and {second} have no question in common; were the data the same?")

    def difference(keys: list, value: str) -> dict[str, Any] | None:
        both = [(a[key][value], b[key][value]) for key in keys]
        return paired_difference([pair for pair in both if None not in pair])

    types: dict[str, list] = {}
    for key in shared:
        types.setdefault(a[key]["question_type"], []).append(key)
    unscored = sum(a[key]["accuracy"] is None or b[key]["accuracy"] is None for key in shared)
    return {
        "accuracy": difference(shared, "accuracy"),
        "tas": difference(shared, "tas"),
        "by_type": {kind: difference(keys, "accuracy") for kind, keys in sorted(types.items())},
        "only_in_a": len(a) - len(shared),
        "only_in_b": len(b) - len(shared),
        "not_scored_in_both": unscored,
    }


def _evaluations(folder: Path) -> dict[str, Path]:
    """Task name -> folder, for the folder of one task or of several."""
    found = {path.parent.name: path.parent for path in sorted(folder.glob("*/samples.jsonl"))}
    if (folder / "samples.jsonl").is_file():
        found["local"] = folder
    if not found:
        raise TaskError(
            f"{folder} holds no evaluation (samples.jsonl). `sayo evaluate MODEL --out {folder}` makes one."
        )
    return found


def _samples(folder: Path) -> dict[tuple[Any, str], dict[str, Any]]:
    """Records by place and id: an id may be given twice, a place may belong to other data."""
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except ValueError:
            raise TaskError(
                f"{folder / 'samples.jsonl'}, line {number} is torn: run its `sayo evaluate` again to finish it."
            ) from None
    return {(record["index"], record["id"]): record for record in records}
