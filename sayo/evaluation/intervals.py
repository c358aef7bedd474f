"""95% intervals and tests: bootstrap over questions, because several responses to one question are not independent."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

RESAMPLES = 1000


def mean_interval(values: Sequence[float]) -> list[float] | None:
    """Percentile bootstrap interval of the mean; None below two values."""
    array = np.asarray(values, dtype=np.float64)
    return _interval(len(array), lambda weights: weights @ array / len(array))


def association(points: Sequence[tuple[float, float, Any]]) -> dict[str, Any]:
    """How a value of a response goes with its being right (the SAYO paper's Figure 2 asks this of TAS).

    Args:
        points: per response the value, its score in [0, 1] (right is 0.5 or more), and its question; whole questions
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


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of `wins` against `losses` under a fair coin; ties are left out.

    With one right-or-wrong answer per question this is McNemar's exact test on the discordant pairs.
    """
    total, fewer = wins + losses, min(wins, losses)
    ways = accumulate(range(fewer), lambda count, k: count * (total - k) // (k + 1), initial=1)  # binomials, exactly
    return min(1.0, 2 * sum(ways) / 2**total)


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
