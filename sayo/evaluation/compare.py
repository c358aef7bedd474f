"""Two results on the same questions: is the difference more than chance?"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sayo.errors import SayoError
from sayo.evaluation.intervals import mean_interval, sign_test
from sayo.evaluation.journal import read_records

Results = dict[str, dict[Any, Mapping[str, Any]]]
"""Data or task -> question -> a mapping with `accuracy` and, of `sayo evaluate`, `tas` and `question_type`."""


class CompareError(SayoError):
    """A folder holds no results, or two folders share nothing."""


def compare_results(a: str | Path, b: str | Path) -> dict[str, dict[str, Any]]:
    """Compare two folders of `sayo evaluate`, or two of lmms-eval (`--log_samples`), question by question.

    Returns:
        data or task -> `paired_difference` of the `accuracy` and, where both were read, of the `tas`; of the accuracy
        `by_type`; and how many questions were left out: `only_in_a`, `only_in_b`, `not_scored_in_both`.

    Raises:
        CompareError: a folder holds no results, or they share no data or no question.
    """
    first, second = load_results(Path(a)), load_results(Path(b))
    shared = [name for name in first if name in second]
    if not shared:
        raise CompareError(f"{a} holds {', '.join(first)}; {b} holds {', '.join(second)}: they share no task.")
    return {name: _compare(name, first[name], second[name]) for name in shared}


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


def load_results(folder: Path) -> Results:
    """The results below a folder; those of several evaluations go by the names of their folders."""
    results: Results = {}
    for path in sorted(folder.rglob("samples.jsonl")):
        name = "questions" if path.parent == folder else str(path.parent.relative_to(folder))
        results[name] = {(record["index"], record["id"]): record for record in read_records(path)}
    for path in sorted(folder.rglob("*_samples_*.jsonl")):  # named by their time: a later run replaces an earlier one
        results |= _lmms_eval_results(path)
    if not results:
        raise CompareError(f"{folder} holds no results of sayo evaluate, nor of lmms_eval --log_samples.")
    return results


def _compare(name: str, a: Mapping[Any, Mapping], b: Mapping[Any, Mapping]) -> dict[str, Any]:
    shared = [key for key in a if key in b]
    if not shared:
        raise CompareError(f"{name}: the two results have no question in common; were the data the same?")

    def difference(keys: list, value: str) -> dict[str, Any] | None:
        both = [(a[key].get(value), b[key].get(value)) for key in keys]
        return paired_difference([pair for pair in both if None not in pair])

    types: dict[str, list] = {}
    for key in shared:
        types.setdefault(a[key].get("question_type", "all"), []).append(key)
    return {
        "accuracy": difference(shared, "accuracy"),
        "tas": difference(shared, "tas"),
        "by_type": {kind: difference(keys, "accuracy") for kind, keys in sorted(types.items())},
        "only_in_a": len(a) - len(shared),
        "only_in_b": len(b) - len(shared),
        "not_scored_in_both": sum(a[k].get("accuracy") is None or b[k].get("accuracy") is None for k in shared),
    }


def _lmms_eval_results(path: Path) -> Results:
    """Samples of one task of lmms-eval 0.7; the score is that of the task's first metric which a sample has."""
    time, _, task = path.stem.partition("_samples_")
    metrics = json.loads(path.with_name(f"{time}_results.json").read_text(encoding="utf-8"))["higher_is_better"]
    names = [name for name, is_higher_better in metrics.get(task, {}).items() if is_higher_better]
    results = {}
    for sample in read_records(path):
        scores = (_lmms_eval_score(sample[name]) for name in names if name in sample)
        results[sample["doc_id"], str(sample["target"])] = {"accuracy": next(scores, None)}
    return {task: results}


def _lmms_eval_score(value: Any) -> float | None:
    """A metric of one sample: a number, or what the task keeps until it aggregates (None: judged only then)."""
    if isinstance(value, Mapping):
        if "pred_answer" in value:  # MME-RealWorld
            return float(value["pred_answer"].lower() == value["answer"].lower())
        value = value.get("score", value.get("scores"))
    value = np.mean(value) if isinstance(value, list) and value else value
    return None if isinstance(value, (str, list, type(None))) else float(value)
