"""Regions of a row -> the four token columns of one processor."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from data_prep.examples import RejectedError
from sayo.geometry import Region, VisualCells, VisualLayout, region_tokens

COLUMNS = ("region_tokens", "region_weights", "num_visual_tokens", "processor_fingerprint")


class TokenMapper:
    """Maps regions to visual tokens with `sayo.geometry.region_tokens`.

    Args:
        threshold: least share of a cell that a region must cover; None takes the geometry's default.
        soft: weights are the covered share (True) or 1 (False), times the region's weight.
    """

    def __init__(self, layout: VisualLayout, threshold: float | None = None, soft: bool = True):
        self.layout, self.threshold, self.soft = layout, threshold, soft
        self._cells = lru_cache(maxsize=256)(layout.cells)  # most images share a few sizes

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenMapper, (self.layout, self.threshold, self.soft)  # workers start with an empty cache

    def settings(self) -> dict[str, Any]:
        """Option -> value, for the account of a shard."""
        return {"--processor": self.layout.fingerprint, "--threshold": self.threshold, "--soft": self.soft}

    def __call__(
        self, sizes: Sequence[tuple[int, int]], regions: Sequence[Region | Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The values of `COLUMNS` for one row.

        Args:
            sizes: (W, H) of each image in pixels, upright.
            regions: regions in pixels, or values of the `regions` column.

        Raises:
            RejectedError: image_refused_by_processor or region_unseen_by_processor.
        """
        cells: list[VisualCells] = []
        for width, height in sizes:
            try:
                cells.append(self._cells(width, height, len(sizes)))
            except ValueError as error:
                raise RejectedError("image_refused_by_processor", f"{width}x{height}: {error}") from None
        tokens, weights = [], []
        if regions:
            tokens, weights = (column.tolist() for column in region_tokens(cells, regions, self.threshold, self.soft))
        values = tokens, weights, [len(image) for image in cells], self.layout.fingerprint
        return dict(zip(COLUMNS, values, strict=True))
