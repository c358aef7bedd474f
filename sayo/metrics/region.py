"""How much attention falls on the region: SAYO's target attention score and its training reward.

Source: SAYO (arXiv 2602.08241), its target attention score, and `train/reward/attn_rewards.py` of the public release.
Every number is a mean over heads, layers, keys and rows first; the ratio is taken last.
"""

import math
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from sayo.attention.trace import AttentionTrace, Rows

Select = Literal["top_entropy", "all", "entropy_weighted"]
Numbers = TypeVar("Numbers", float, np.ndarray)


class RegionAttention(NamedTuple):
    """Attention of one completion on its region, pooled over layers and selected tokens."""

    region: float  # attention per region token, SAYO's `a` (mass / size)
    image: float  # attention per visual token, SAYO's `v`
    region_mass: float  # attention mass on the region, in [0, 1]
    image_mass: float  # attention mass on all visual tokens, in [0, 1]


def token_weights(entropy: np.ndarray, select: Select = "top_entropy", top_share: float = 0.3) -> np.ndarray:
    """Weight of each response token in the pooled attention.

    Args:
        entropy: `(T,)` nats, `T >= 1`; valid tokens only (no padding, nothing after the end of sequence).
        select: `"top_entropy"`: the `k = max(1, ceil(top_share * T))` most uncertain tokens, equally (ties: the
            earlier token first, so exactly `k` are kept). `"all"`: every token, equally. `"entropy_weighted"`: in
            proportion to entropy (equally when all entropies are 0).
        top_share: in (0, 1].

    Returns:
        `(T,)` float64, sums to 1.

    Raises:
        ValueError: no token, an entropy that is negative or not finite, or an unknown option.
    """
    entropy = np.asarray(entropy, dtype=np.float64)
    if entropy.ndim != 1 or len(entropy) == 0:
        raise ValueError(f"entropy must be (T,) with at least one token, got shape {entropy.shape}")
    # Rounding can push the entropy of a certain token a hair below zero.
    if not np.isfinite(entropy).all() or entropy.min() < -1e-4:
        raise ValueError("token entropies must be finite and non-negative; check the logits they were computed from")
    entropy = np.maximum(entropy, 0.0)
    if select == "all" or (select == "entropy_weighted" and not entropy.any()):
        return np.full(len(entropy), 1.0 / len(entropy))
    if select == "entropy_weighted":
        return entropy / entropy.sum()
    if select == "top_entropy":
        k = top_count(len(entropy), top_share)
        weights = np.zeros(len(entropy))
        weights[np.argsort(-entropy, kind="stable")[:k]] = 1.0 / k
        return weights
    raise ValueError(f"select must be 'top_entropy', 'all' or 'entropy_weighted', got {select!r}")


def top_count(length: int, share: float) -> int:
    """`max(1, ceil(share * length))`: how many tokens of a response a share selects; ValueError outside (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"the share of tokens must be in (0, 1], got {share}")
    return max(1, math.ceil(share * length - 1e-9))  # 1e-9: 0.1 * 30 is 3.0000000000000004 in floats


def pooled_attention(
    trace: AttentionTrace, rows: Rows, select: Select = "top_entropy", top_share: float = 0.3
) -> RegionAttention:
    """Pool a trace into the four numbers that all region scores are computed from.

    Masses are averaged over heads (by the capture), then over the captured layers, then over the selected tokens;
    the division by the number of keys comes last (all of these means commute; only ratios do not).

    Raises:
        ValueError: no token, no region, or masses that are not finite.
    """
    if not trace.has_region:
        raise ValueError("this sample has no region; skip it (rewards return None)")
    weights = token_weights(trace.entropy, select, top_share)
    region_mass, image_mass = (pooled_mass(trace, group, rows, weights) for group in ("region", "image"))
    if not (math.isfinite(region_mass) and math.isfinite(image_mass)):
        raise ValueError("attention masses are not finite; the forward pass that produced them overflowed")
    return RegionAttention(
        region_mass / trace.sizes["region"], image_mass / trace.sizes["image"], region_mass, image_mass
    )


def pooled_mass(trace: AttentionTrace, group: str, rows: Rows, weights: np.ndarray) -> float:
    """Attention mass on a key group: the mean over layers, then over the tokens with `(T,)` weights that sum to 1."""
    return float(trace.mass(group, rows).astype(np.float64).mean(axis=0) @ weights)


def region_ratio(region: Numbers, image: Numbers, eps: float = 1e-8) -> Numbers:
    """`x = (a + eps) / (v + eps)`: attention per region token against attention per visual token (1: no preference).

    With `a`, `v` of one query row and head this is VRGA's RRAR (arXiv 2603.14184). Broadcasts.
    """
    return (region + eps) / (image + eps)


def region_score(region: Numbers, image: Numbers, eps: float = 1e-8) -> Numbers:
    """SAYO's training reward `r_v = tanh(log x)` with `x = (a + eps) / (v + eps)`, in (-1, 1). Broadcasts.

    Computed by its closed form `(x^2 - 1) / (x^2 + 1)`. The maximum is reached when all image attention is on the
    region, where `x = |V| / |T|`: smaller regions have a higher maximum.

    Raises:
        ValueError: eps is not positive (an image without attention would score 0 / 0).
    """
    if eps <= 0:
        raise ValueError(f"eps must be positive, got {eps}")
    a, v = region + eps, image + eps
    return (a * a - v * v) / (a * a + v * v)


def tas(region: Numbers, image: Numbers, eps: float = 1e-8) -> Numbers:
    """SAYO's target attention score `R_a = (1 + tanh(log x)) / 2 = x^2 / (1 + x^2)`, in (0, 1). Broadcasts."""
    return 0.5 * (1.0 + region_score(region, image, eps))
