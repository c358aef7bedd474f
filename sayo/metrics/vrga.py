"""VRGA's measures of a visual head, and the steps of its training-free intervention.

Source: "Deeper Thought, Weaker Aim" (arXiv 2603.14184); defaults of the public release's `modeling_qwen2_5_vl.py`,
with its errors corrected: the caller passes the exact query row and image slice, the neighbourhood is two-dimensional,
and threshold statistics are computed outside the border. RRAR is `region.region_ratio`.
"""

import math

import numpy as np


def image_focus(image_mass: np.ndarray, num_visual: int, num_keys: int) -> np.ndarray:
    """R_img: attention per visual token relative to attention per visible key; 1: the image gets its share.

    `image_mass` is of rows that sum to 1; `num_keys` is M, the keys that the query can see (without padding).
    """
    return np.asarray(image_mass, dtype=np.float64) / num_visual * num_keys


def image_entropy(image_rows: np.ndarray, normalize: bool = True, eps: float = 1e-8) -> np.ndarray:
    """H_img in nats: how spread out the attention inside the image is (log |V| when uniform).

    Args:
        image_rows: `(..., N)` attention on the visual tokens.
        normalize: divide by the image mass first (the paper); False: the release's gate. A row without image
            attention has entropy 0.
    """
    p = np.asarray(image_rows, dtype=np.float64)
    if normalize:
        mass = p.sum(axis=-1, keepdims=True)
        p = np.divide(p, mass, out=np.zeros_like(p), where=mass > 0)
    return -(p * np.log(p + eps)).sum(axis=-1)


def entropy_focus_ratio(entropy: np.ndarray, focus: np.ndarray) -> np.ndarray:
    """EFR = H_img / R_img; low for a head that looks at one place in the image. Infinite without attention."""
    entropy, focus = np.broadcast_arrays(np.asarray(entropy, float), np.asarray(focus, float))
    return np.divide(entropy, focus, out=np.full(entropy.shape, np.inf), where=focus > 0)


def visual_heads(
    focus: np.ndarray, efr: np.ndarray, efr_percentile: float = 5.0, focus_percentile: float = 95.0
) -> np.ndarray:
    """`(L, H)` bool, H_v: low EFR and high focus, by percentiles over all heads; never empty.

    If no head has both, the heads with high focus (as in the release).
    """
    finite = efr[np.isfinite(efr)]
    focused = focus >= np.percentile(focus, focus_percentile)
    sharp = efr <= np.percentile(finite, efr_percentile) if len(finite) else np.zeros(efr.shape, dtype=bool)
    return focused & sharp if (focused & sharp).any() else focused


def background_heads(focus: np.ndarray, below: float = 0.01, first: int = 63) -> np.ndarray:
    """`(L, H)` bool, H_b: early heads (the first 63, layer by layer) that almost ignore the image."""
    early = np.arange(focus.size).reshape(focus.shape) < first
    return early & (focus < below)


def steering_gate(
    focus: np.ndarray, raw_entropy: np.ndarray, min_focus: float = 0.6, entropy_factor: float = 0.2
) -> np.ndarray:
    """`(...)` bool: which heads of a decode row are boosted; `raw_entropy` = `image_entropy(..., normalize=False)`."""
    return (focus > min_focus) & (focus > entropy_factor * raw_entropy)


def subtract_background(visual: np.ndarray, background: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """`(N,)` reference map `Norm(max(visual - weight * background, 0))`, both maps scaled to sum 1 first.

    The visual map is unchanged if the background covers everything or is empty; without attention it is a ValueError.
    """
    if not visual.sum() > 0:
        raise ValueError("the visual heads have no attention on the image; there is no map to sharpen")
    visual = visual / visual.sum()
    if background.sum() > 0:
        difference = np.maximum(visual - weight * background / background.sum(), 0.0)
        if difference.sum() > 0:
            return difference / difference.sum()
    return visual


def border_tokens(columns: int, rows: int, share: float = 0.2) -> np.ndarray:
    """`(columns * rows,)` bool: the border where attention sinks occur, at most `share` of the tokens.

    Filled in the release's order: the top-left 2 x 2, the rest of the first row, the rest of the first column.
    """
    y, x = np.divmod(np.arange(columns * rows), columns)
    rank = np.select([(x < 2) & (y < 2), y == 0, x == 0], [0, 1, 2], default=3)
    order = np.argsort(rank, kind="stable")[: int(share * columns * rows)]
    mask = np.zeros(columns * rows, dtype=bool)
    mask[order[rank[order] < 3]] = True
    return mask


def focus_tokens(
    reference: np.ndarray, border: np.ndarray | None = None, deviations: float = 0.6, min_share: float = 0.02
) -> np.ndarray:
    """T_q: indices of the visual tokens that the question asks about, ascending.

    Above mean + `deviations` standard deviations (unbiased) of the tokens outside the border; if fewer than
    `max(1, ceil(min_share * N))` pass, that many of the largest. (The release's constant of 10 would select all of a
    small image.) `reference` is the `(N,)` map; tokens of the border, `(N,)` bool, are never selected.
    """
    inside = np.arange(len(reference)) if border is None else np.flatnonzero(~border)
    if len(inside) == 0:
        raise ValueError("the border covers every token; lower its share")
    values = reference[inside]
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    chosen = inside[values > values.mean() + deviations * spread]
    wanted = min(len(inside), max(1, math.ceil(min_share * len(reference))))
    if len(chosen) < wanted:
        chosen = inside[np.argsort(-values, kind="stable")[:wanted]]
    return np.sort(chosen)


def neighbourhood(tokens: np.ndarray, columns: int, rows: int, radius: int = 2) -> np.ndarray:
    """Indices of all tokens within `radius` cells (a square window clipped to the grid) of the given ones."""
    y, x = np.divmod(np.asarray(tokens, dtype=int), columns)
    grid_y, grid_x = np.divmod(np.arange(columns * rows), columns)
    near = (np.abs(grid_y[:, None] - y) <= radius) & (np.abs(grid_x[:, None] - x) <= radius)
    return np.flatnonzero(near.any(axis=1))
