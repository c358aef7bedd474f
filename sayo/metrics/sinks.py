"""Attention sinks inside the image: cells that every query attends to, whatever it asks."""

from __future__ import annotations

import math

import numpy as np


def sink_tokens(maps: np.ndarray, share: float = 0.02) -> np.ndarray:
    """`(N,)` bool: the `ceil(share * N)` visual tokens with the most attention on average over all rows.

    An average over the rows of *one* response cannot tell a sink from an object that is looked at all the time: pool
    rows of several questions about images of the same size where possible.

    Args:
        maps: `(..., N)` attention on the visual tokens.
    """
    mean = np.asarray(maps, dtype=np.float64).reshape(-1, maps.shape[-1]).mean(axis=0)
    sinks = np.zeros(len(mean), dtype=bool)
    sinks[np.argsort(-mean, kind="stable")[: math.ceil(share * len(mean) - 1e-9)]] = True
    return sinks


def sink_free_mass(maps: np.ndarray, sinks: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """`(...)` attention mass on the visual tokens that are no sinks, to be reported beside every raw mass.

    Args:
        maps: `(..., N)` attention on the visual tokens.
        sinks: `(N,)` bool.
        weights: `(N,)` coverage weights of a target region; None: the whole image.
    """
    keep = (~sinks).astype(np.float64)
    return np.asarray(maps, dtype=np.float64) @ (keep if weights is None else keep * weights)
