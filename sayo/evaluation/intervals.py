"""95% intervals and tests whose unit is the cluster: the questions about one picture, or the versions of one problem.

Such questions go right and wrong together. Taken for independent, five questions a picture make "95%" intervals hold
the truth in less than 80 of 100 cases.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

RESAMPLES = 1000


def clusters_of(links: Sequence[Sequence[Hashable]]) -> list[int]:
    """The cluster of each question; questions that share a link (a picture, a problem) are in one, directly or not."""
    parent = list(range(len(links)))

    def root(question: int) -> int:
        while parent[question] != question:
            parent[question] = question = parent[parent[question]]
        return question

    first: dict[Hashable, int] = {}
    for question, names in enumerate(links):
        for name in names:
            parent[root(question)] = root(first.setdefault(name, question))
    return [root(question) for question in range(len(links))]


def mean_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, share: bool = False
) -> list[float] | None:
    """Interval of the mean over independent clusters (each value alone if None is given); None below two clusters.

    With `share`, of values in [0, 1], Wilson's interval for as many independent questions as have this variance
    (Korn and Graubard 1998): never [1, 1]. Otherwise Student's, with the cluster-robust error.
    """
    array = np.asarray(values, dtype=np.float64)
    sums, count = _cluster_sums(array - array.mean(), clusters) if len(array) else ([], 0)
    if count < 2:
        return None
    mean, t = float(array.mean()), _student(count - 1)
    variance = count / (count - 1) * float(np.square(sums).sum()) / len(array) ** 2
    if not share:
        half = t * math.sqrt(variance)
        return [mean - half, mean + half]
    size = mean * (1 - mean) / variance if variance > 1e-12 and 0 < mean < 1 else count
    centre, half = mean + t * t / (2 * size), t * math.sqrt(mean * (1 - mean) / size + t * t / (4 * size**2))
    return [max(0.0, (centre - half) / (1 + t * t / size)), min(1.0, (centre + half) / (1 + t * t / size))]


def difference_interval(differences: Sequence[float], clusters: Sequence[Hashable]) -> list[float] | None:
    """Interval of the mean of paired differences in [-1, 1] (Agresti and Min 2005: two pairs are added, half a one
    better and half a one worse, so that equal results are not equal for certain); None below two clusters."""
    if len(set(clusters)) < 2:
        return None
    low, high = mean_interval([*differences, 0.5**0.5, -(0.5**0.5)], [*clusters, "one better", "one worse"])
    mean = float(np.mean(differences))
    return [max(-1.0, min(low, mean)), min(1.0, max(high, mean))]


def sign_flip_test(differences: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Two-sided p-value of the sum of paired differences, if A and B may be exchanged within any cluster.

    Exact up to 1000 clusters with a difference (on a grid of hundredths of the largest where the differences are no
    fractions), above by the normal law. With one question a cluster, right or wrong, it is McNemar's exact test.
    """
    sums, _ = _cluster_sums(np.asarray(differences, dtype=np.float64), clusters)
    sums = sums[np.abs(sums) > 1e-9]
    if len(sums) == 0:
        return 1.0
    if len(sums) > 1000:
        return math.erfc(abs(sums.sum()) / math.sqrt(2 * np.square(sums).sum()))
    scale = next((k for k in range(1, 101) if np.allclose(sums * k, np.round(sums * k), atol=1e-6)), None)
    steps = np.round(sums * (scale or 100 / np.abs(sums).max())).astype(int)
    chances = np.ones(1)
    for step in np.abs(steps):
        chances = np.pad(chances, (0, 2 * step)) / 2 + np.pad(chances, (2 * step, 0)) / 2
    total = np.abs(steps).sum()
    return min(1.0, float(chances[np.abs(np.arange(-total, total + 1)) >= abs(steps.sum())].sum()))


def association(points: Sequence[tuple[float, float, Any]]) -> dict[str, Any]:
    """How a value of a response goes with its being right (the SAYO paper's Figure 2 asks this of TAS).

    Args:
        points: per response the value, its score in [0, 1] (right is 0.5 or more), and its cluster; whole clusters
            are resampled.

    Returns:
        `auc` (the chance that a right response has the larger value, ties count half) with `auc_interval`; `mean`,
        `mean_right`, `mean_wrong`; `num_right`, `num_wrong`. What is not defined is None, such as the AUC where all
        responses are right, or all wrong.
    """
    values, scores, questions = zip(*points, strict=True) if points else ((), (), ())
    x, right = np.asarray(values, dtype=np.float64), np.asarray(scores, dtype=np.float64) >= 0.5
    names, cluster = np.unique(np.asarray(questions).astype(str), return_inverse=True)
    order = np.argsort(x, kind="stable")
    starts = np.flatnonzero(np.diff(x[order], prepend=-np.inf) > 0)

    def aucs(weights: np.ndarray) -> np.ndarray:
        return _auc(right[order], starts, weights[:, cluster][:, order])

    parts = {"mean": x, "mean_right": x[right], "mean_wrong": x[~right]}
    is_defined = right.any() and not right.all()
    return {
        "auc": float(aucs(np.ones((1, len(names))))[0]) if is_defined else None,
        "auc_interval": _interval(len(names), aucs) if is_defined else None,
        **{name: float(part.mean()) if len(part) else None for name, part in parts.items()},
        "num_right": int(right.sum()),
        "num_wrong": int((~right).sum()),
    }


def _cluster_sums(values: np.ndarray, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, int]:
    names: dict[Hashable, int] = {}
    index = [names.setdefault(name, len(names)) for name in (clusters if clusters is not None else range(len(values)))]
    return np.bincount(np.asarray(index, dtype=int), weights=values, minlength=len(names)), len(names)


def _student(freedom: int) -> float:
    """The 97.5% quantile of Student's distribution by its expansion about the normal one (Abramowitz 26.7.5)."""
    z, n = NormalDist().inv_cdf(0.975), freedom
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / n**power for power, term in enumerate(terms, 1))


def _interval(count: int, statistic: Callable[[np.ndarray], np.ndarray]) -> list[float] | None:
    """Percentiles of `statistic` over resamples; it maps `(R, count)` weights to `(R,)` values (NaN: undefined)."""
    if count < 2:
        return None
    rng, blocks = np.random.default_rng(0), []
    for _ in range(0, RESAMPLES, 100):  # in blocks: a thousand copies of a large data set would fill the memory
        drawn = rng.integers(count, size=(100, count)) + count * np.arange(100)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=100 * count).reshape(100, count)
        blocks.append(statistic(weights.astype(np.float64)))
    values = np.concatenate(blocks)
    values = values[np.isfinite(values)]
    if len(values) < RESAMPLES / 2:
        return None
    return np.quantile(values, [0.025, 0.975]).tolist()


def _auc(right: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted AUC of responses in ascending order of their value; `starts` are the first of each run of ties."""
    positive = np.add.reduceat(weights * right, starts, axis=1)
    negative = np.add.reduceat(weights * ~right, starts, axis=1)
    below = negative.cumsum(axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    wins = (positive * (below + negative / 2)).sum(axis=1)
    return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
