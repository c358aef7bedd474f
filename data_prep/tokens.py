"""Regions of a row -> the four token columns of one processor."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.examples import RejectedError

if TYPE_CHECKING:
    from sayo.geometry import VisualCells, VisualLayout

COLUMNS = ("region_tokens", "region_weights", "num_visual_tokens", "processor_fingerprint")


class TokenMapper:
    """Maps regions to visual tokens with `sayo.geometry.region_tokens`.

    Args:
        layout: the processor's layout.
        threshold: least share of a cell that a region must cover; None takes the geometry's default.
        soft: weights are the covered share (True) or 1 (False), times the region's weight.
    """

    def __init__(self, layout: VisualLayout, threshold: float | None = None, soft: bool = True):
        self.layout = layout
        self.threshold = threshold
        self.soft = soft
        self._cells = lru_cache(maxsize=256)(layout.cells)  # most images share a few sizes
        self._one = lru_cache(maxsize=512)(self._map_one)  # questions about one image share its masks

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenMapper, (self.layout, self.threshold, self.soft)  # for workers: caches stay at home

    def settings(self) -> dict[str, Any]:
        """Option -> value, for the account of a shard."""
        return {"--processor": self.layout.fingerprint, "--threshold": self.threshold, "--soft": self.soft}

    def __call__(self, sizes: list[tuple[int, int]], regions: list[dict[str, Any]]) -> dict[str, Any]:
        """The values of `COLUMNS` for one row.

        Args:
            sizes: (W, H) of each image in pixels, upright.
            regions: values of the `regions` column.

        Raises:
            RejectedError: image_refused_by_processor or region_unseen_by_processor.
        """
        counts = [len(self._cells_of(size, len(sizes))) for size in sizes]
        starts = np.cumsum([0, *counts])
        weights = np.zeros(starts[-1])
        for region in regions:
            index = region["image"]
            tokens, covered = self._one(sizes[index], len(sizes), region["rle"] or tuple(region["box"]))
            at = starts[index] + tokens
            weights[at] = np.maximum(weights[at], region["weight"] * covered)  # a union: overlaps count once
        chosen = np.flatnonzero(weights)
        values = (chosen.tolist(), weights[chosen].astype(np.float32).tolist(), counts, self.layout.fingerprint)
        return dict(zip(COLUMNS, values, strict=True))

    def _map_one(self, size: tuple[int, int], num_images: int, shape: str | tuple) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and shares of one region of one image; `shape` is its rle or its box."""
        from sayo.geometry import region_tokens

        region = {"rle": shape} if isinstance(shape, str) else {"box": shape}
        try:
            return region_tokens(self._cells_of(size, num_images), [region], self.threshold, self.soft)
        except ValueError as error:
            raise RejectedError("region_unseen_by_processor", str(error)) from None

    def _cells_of(self, size: tuple[int, int], num_images: int) -> VisualCells:
        try:
            return self._cells(*size, num_images)
        except ValueError as error:
            raise RejectedError("image_refused_by_processor", f"{size[0]}x{size[1]}: {error}") from None
