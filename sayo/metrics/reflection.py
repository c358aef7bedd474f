"""Reflection-V's measure: does a long response keep looking at the image?

Source: Reflection-V (arXiv 2509.12132). Its reward is not in the public release; this form (second half against first
half) follows its descriptions.
"""

import numpy as np


def half_means(series: np.ndarray) -> tuple[float, float]:
    """Means of both halves of `(T,)`, `T >= 2`; the middle token of an odd length belongs to the second half."""
    if len(series) < 2:
        raise ValueError(f"two halves need at least two tokens, got {len(series)}")
    series, middle = np.asarray(series, dtype=np.float64), len(series) // 2
    return float(series[:middle].mean()), float(series[middle:].mean())


def late_attention(series: np.ndarray, floor: float = 0.0, eps: float = 1e-8) -> float:
    """Second-half attention against first-half attention: `m2 / (max(m1, floor) + eps)`.

    Args:
        series: `(T,)` attention mass on the image per response token.
        floor: lower bound of the first half. Without it, the ratio can be hacked by looking *less* at first; with
            it, going below the floor gains nothing, and the value is bounded by `m2 / floor`.
    """
    first, second = half_means(series)
    return second / (max(first, floor) + eps)
