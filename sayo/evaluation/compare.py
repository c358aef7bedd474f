"""Two results on the same questions: is the difference more than chance?"""

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sayo.errors import SayoError
from sayo.evaluation.intervals import clusters_of, difference_interval, sign_flip_test
from sayo.evaluation.journal import read_records
from sayo.metrics.lookback import mean_of_known

Results = dict[str, dict[Any, Mapping[str, Any]]]
"""Data or task -> question -> a mapping with `accuracy`, `links` (`intervals.clusters_of`), `asked` (what must be the
same in both results) and, of `sayo evaluate`, `tas` and `question_type`."""

_MODEL = ("model", "server_model", "model_files", "steer", "seed", "attention", "data", "data_files")  # may differ
_LINKS = ("problem_index", "problem_id", "image", "image_id", "image_path", "image_name", "img_path", "file_name")


class CompareError(SayoError):
    """A folder holds no results, or two folders share nothing, or ask different things under the same names."""


def compare_results(a: str | Path, b: str | Path) -> dict[str, dict[str, Any]]:
    """Compare two folders of `sayo evaluate`, or two of lmms-eval (`--log_samples`), question by question.

    Returns:
        data or task -> `paired_difference` of the `accuracy` and, where both were read, of the `tas` of `tas_layers`
        (where the two report other layers, the one of B, which was trained on it, else that of A); of the accuracy
        `by_type`; how many questions were left out: `only_in_a`, `only_in_b`, `not_scored_in_both`; and `warnings`:
        settings and prompts that differ, of which the difference may come.

    Raises:
        CompareError: a folder holds no results, they share no data or no question, or questions, pictures or solutions
            of the same id differ.
    """
    first, second = load_results(Path(a)), load_results(Path(b))
    shared = [name for name in first if name in second]
    if not shared:
        raise CompareError(f"{a} holds {', '.join(first)}; {b} holds {', '.join(second)}: they share no task.")
    settings = [load_settings(Path(folder)) for folder in (a, b)]
    results = {}
    for name in shared:
        own = [found.get(name, {}) for found in settings]
        layers = [found.pop("layers", None) for found in own]
        results[name] = _compare(name, first[name], second[name], *layers)
        results[name]["warnings"] += _differing(*own)
    return results


def paired_difference(
    pairs: Sequence[tuple[float, float]], clusters: Sequence[Hashable] | None = None
) -> dict[str, Any] | None:
    """B minus A over paired questions with scores in [0, 1], in independent clusters (default: each alone).

    Returns:
        `mean_a`, `mean_b`, `difference` with its `interval`, questions that got better and worse, and the two-sided
        `p_value` of `intervals.sign_flip_test`, by its name: McNemar's where every question is a cluster and every
        score 0 or 1. None without a pair.
    """
    if not pairs:
        return None
    clusters = range(len(pairs)) if clusters is None else clusters
    scores = np.asarray(pairs, dtype=np.float64)
    difference = scores[:, 1] - scores[:, 0]
    is_mcnemar = len(set(clusters)) == len(pairs) and np.isin(scores, (0.0, 1.0)).all()
    return {
        "num_questions": len(pairs),
        "num_clusters": len(set(clusters)),
        "mean_a": float(scores[:, 0].mean()),
        "mean_b": float(scores[:, 1].mean()),
        "difference": float(difference.mean()),
        "interval": difference_interval(difference, clusters),
        "better": int((difference > 1e-12).sum()),
        "worse": int((difference < -1e-12).sum()),
        "p_value": sign_flip_test(difference, clusters),
        "test": "McNemar, exact" if is_mcnemar else "sign flips of clusters",
    }


def load_results(folder: Path) -> Results:
    """The results below a folder; those of several evaluations go by the names of their folders."""
    results: Results = {}
    for path in sorted(folder.rglob("samples.jsonl")):
        name = "questions" if path.parent == folder else str(path.parent.relative_to(folder))
        results[name] = {(record["index"], record["id"]): _asked(record) for record in read_records(path)}
    for path in sorted(folder.rglob("*_samples_*.jsonl")):  # named by their time: a later run replaces an earlier one
        results |= _lmms_eval_results(path)
    if not results:
        raise CompareError(f"{folder} holds no results of sayo evaluate, nor of lmms_eval --log_samples.")
    return results


def _compare(
    name: str, a: Mapping[Any, Mapping], b: Mapping[Any, Mapping], layers_a: Any = None, layers_b: Any = None
) -> dict[str, Any]:
    shared = [key for key in a if key in b]
    if not shared:
        raise CompareError(f"{name}: the two results have no question in common; were the data the same?")

    for key in shared:
        for value in ("asked", "links"):
            one, other = a[key].get(value), b[key].get(value)
            if one and other and one != other:
                raise CompareError(f"{name}: question {key[0]} is {one} in one result and {other} in the other.")
    prompts = [{a[key].get("prompt"), b[key].get("prompt")} - {None} for key in shared]
    others = sum(len(of_both) == 2 for of_both in prompts)
    links = [(*a[key].get("links", ()), *b[key].get("links", ())) for key in shared]
    cluster = dict(zip(shared, clusters_of(links), strict=True))

    def difference(keys: list, value: str) -> dict[str, Any] | None:
        known = [key for key in keys if None not in (a[key].get(value), b[key].get(value))]
        pairs = [(a[key][value], b[key][value]) for key in known]
        return paired_difference(pairs, [cluster[key] for key in known])

    layers, warnings = layers_b, [f"{others} questions were asked with other prompts"] if others else []
    if layers_a != layers_b:
        layers = next((some for some in (layers_b, layers_a) if isinstance(some, list) and len(some) == 1), None)
        a, b = ({key: {**found[key], "tas": _tas(found[key], layers)} for key in found} for found in (a, b))
        if layers is None and layers_a and layers_b:
            warnings.append(f"layers: {layers_a} in A, {layers_b} in B; TAS was not compared")

    types: dict[str, list] = {}
    for key in shared:
        types.setdefault(a[key].get("question_type", "all"), []).append(key)
    return {
        "accuracy": difference(shared, "accuracy"),
        "tas": difference(shared, "tas"),
        "tas_layers": layers,
        "by_type": {kind: difference(keys, "accuracy") for kind, keys in sorted(types.items())},
        "warnings": warnings,
        "only_in_a": len(a) - len(shared),
        "only_in_b": len(b) - len(shared),
        "not_scored_in_both": sum(a[k].get("accuracy") is None or b[k].get("accuracy") is None for k in shared),
    }


def _tas(record: Mapping[str, Any], layers: list[int] | None) -> float | None:
    """Of a single layer alone, as of `records.tas_by_layer`: mean over the responses."""
    known = [values["tas_by_layer"].get(str(*layers)) for values in record.get("responses", ())] if layers else []
    return mean_of_known(known)


def load_settings(folder: Path) -> dict[str, dict[str, Any]]:
    """Data or task (as of `load_results`) -> what a result depends on beside the model."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("settings.json")):
        name = "questions" if path.parent == folder else str(path.parent.relative_to(folder))
        settings = json.loads(path.read_text(encoding="utf-8"))
        found[name] = {key: value for key, value in settings.items() if key not in _MODEL}
    for path in sorted(folder.rglob("*_results.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        for task, config in run.get("configs", {}).items():
            kept = ("generation_kwargs", "lmms_eval_specific_kwargs", "num_fewshot", "repeats")
            versions = {"version": run.get("versions", {}).get(task)}
            found[task] = {key: config[key] for key in kept if key in config} | versions
    return found


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    keys = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key)!r} in A, {b.get(key)!r} in B" for key in keys]


def _asked(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "asked": [record.get("question"), record.get("solution")]}


def _lmms_eval_results(path: Path) -> Results:
    """Samples of one task of lmms-eval 0.7; the score is that of the task's first metric which a sample has."""
    time, _, task = path.stem.partition("_samples_")
    metrics = json.loads(path.with_name(f"{time}_results.json").read_text(encoding="utf-8"))["higher_is_better"]
    names = [name for name, is_higher_better in metrics.get(task, {}).items() if is_higher_better]
    results = {}
    for sample in read_records(path):
        scores = (_lmms_eval_score(sample[name]) for name in names if name in sample)
        doc = sample.get("doc") or {}
        links = [f"{key} {doc[key]}" for key in _LINKS if isinstance(doc.get(key), (str, int))]
        result = {"accuracy": next(scores, None), "links": links, "asked": sample.get("doc_hash")}
        results[sample["doc_id"], str(sample["target"])] = {**result, "prompt": sample.get("prompt_hash")}
    return {task: results}


def _lmms_eval_score(value: Any) -> float | None:
    """A metric of one sample: a number, or what the task keeps until it aggregates (None: judged only then)."""
    if isinstance(value, Mapping):
        if "pred_answer" in value:  # MME-RealWorld
            return float(value["pred_answer"].lower() == value["answer"].lower())
        value = value.get("score", value.get("scores"))
    value = np.mean(value) if isinstance(value, list) and value else value
    return None if isinstance(value, (str, list, type(None))) else float(value)
