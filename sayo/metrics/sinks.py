"""Attention sinks inside the image: cells that every query attends to, regardless of the question."""

import math
from collections.abc import Sequence

import numpy as np

from sayo.attention.trace import AttentionTrace, Rows
from sayo.metrics.region import RegionAttention, Select, token_weights


def sink_tokens(maps: np.ndarray, share: float = 0.02) -> np.ndarray:
    """`(N,)` bool: the `ceil(share * N)` visual tokens with the most attention on average over all rows.

    An average over the rows of *one* response cannot distinguish a sink from an object that is looked at all the time:
    pool rows of several questions about images of the same size if possible. `maps` is `(..., N)`.
    """
    mean = np.asarray(maps, dtype=np.float64).reshape(-1, maps.shape[-1]).mean(axis=0)
    sinks = np.zeros(len(mean), dtype=bool)
    sinks[np.argsort(-mean, kind="stable")[: math.ceil(share * len(mean) - 1e-9)]] = True
    return sinks


def sink_free_mass(maps: np.ndarray, sinks: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """`(...)` attention mass of maps `(..., N)` on the tokens that are not sinks, to be reported with every raw mass.

    `weights` are the `(N,)` coverage weights of a region; None: the whole image.
    """
    keep = (~sinks).astype(np.float64)
    return np.asarray(maps, dtype=np.float64) @ (keep if weights is None else keep * weights)


def relative_map(seen: np.ndarray, neutral: np.ndarray, sinks: np.ndarray | None = None) -> np.ndarray:
    """`(N,)` attention on each visual token for a question, over that for a neutral prompt; 0 on `sinks`.

    Each is a share of the attention on the image: 1 is as much as for any question. Source: the relative attention of
    "MLLMs Know Where to Look" (arXiv 2502.17422), which does not take shares first.

    Args:
        seen, neutral: `(N,)` maps over the same picture, such as `sayo.draw.response_map` of two traces.
        sinks: `(N,)` bool, such as `sink_tokens(neutral)`; None keeps all.
    """
    ratio = np.divide(seen, neutral, out=np.zeros(len(seen)), where=np.asarray(neutral) > 0)
    ratio *= np.sum(neutral) / max(float(np.sum(seen)), 1e-12)
    return ratio if sinks is None else np.where(sinks, 0.0, ratio)


def pooled_sinks(traces: Sequence[AttentionTrace], share: float = 0.02) -> dict[int, np.ndarray]:
    """Number of visual tokens -> `(N,)` bool: the sinks of images of that size, over all rows of all traces.

    Pooled by size because sinks have fixed positions while objects do not. With only one question of a size, an object
    may be taken for a sink, so values without sinks are then too low rather than too high. Traces without maps and
    empty ones are ignored.
    """
    by_size: dict[int, list[np.ndarray]] = {}
    for trace in traces:
        if trace.maps is not None and len(trace) and trace.maps.shape[-1]:
            by_size.setdefault(trace.maps.shape[-1], []).append(trace.maps.mean(axis=(0, 1)))
    return {size: sink_tokens(np.stack(means), share) for size, means in by_size.items()}


def sink_free_attention(
    trace: AttentionTrace,
    sinks: np.ndarray,
    region: np.ndarray,
    rows: Rows,
    select: Select = "top_entropy",
    top_share: float = 0.3,
) -> RegionAttention | None:
    """`metrics.region.pooled_attention` with the sinks, `(N,)` bool, excluded from image and region.

    None if every visual token of the region is a sink.

    Args:
        trace: with maps and at least one token.
        region: `(N,)` coverage weights of the region; zeros without a region.
    """
    keep = (~sinks).astype(np.float64)
    if region.any() and not (keep * region).any():
        return None
    weights = token_weights(trace.entropy, select, top_share)
    row = weights @ trace.map(rows).astype(np.float64).mean(axis=0)  # (N,)
    region_mass, image_mass = (float(sink_free_mass(row, sinks, coverage)) for coverage in (region, None))
    sizes = max((keep * region).sum(), 1e-9), max(keep.sum(), 1.0)
    return RegionAttention(region_mass / sizes[0], image_mass / sizes[1], region_mass, image_mass)
