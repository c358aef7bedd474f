"""Two-dimensional grids of visual tokens, one per image and view: borders and neighbourhoods."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sayo.geometry import VisualCells
from sayo.metrics import vrga


@dataclass(frozen=True)
class TokenGrid:
    """Visual tokens of one view of one image."""

    tokens: np.ndarray  # (n,) indices among the sample's visual tokens
    columns: int
    rows: int
    places: np.ndarray  # (n,) row-major cell of each token

    def border(self, share: float) -> np.ndarray:
        """`(n,)` bool; see `vrga.border_tokens`."""
        return vrga.border_tokens(self.columns, self.rows, share)[self.places]

    def grown(self, chosen: np.ndarray, radius: int) -> np.ndarray:
        """`(n,)` bool: within `radius` cells of a chosen token; `chosen` is `(N,)` bool over the sample's tokens."""
        near = vrga.neighbourhood(self.places[chosen[self.tokens]], self.columns, self.rows, radius)
        return np.isin(self.places, near)


def grids_of_cells(images: Sequence[VisualCells]) -> list[TokenGrid]:
    """One grid per image and view; tokens without a footprint (separators, padding) are not part of any grid."""
    grids, first = [], 0
    for cells in images:
        seen = ~np.isnan(cells.footprints[:, 0])
        for view in np.unique(cells.views[seen]):
            tokens = np.flatnonzero(seen & (cells.views == view))
            edges = cells.footprints[tokens, :2].round(3)
            (left, x), (top, y) = (np.unique(edges[:, axis], return_inverse=True) for axis in (0, 1))
            grids.append(TokenGrid(first + tokens, len(left), len(top), y * len(left) + x))
        first += len(cells)
    return grids


def grids_of_positions(positions: np.ndarray, tokens: np.ndarray) -> list[TokenGrid]:
    """One grid per image of one sample, from the M-RoPE height and width positions of its visual tokens.

    Args:
        positions: `(2, N)` row and column position of each visual token.
        tokens: `(N,)` their positions in the sequence; consecutive ones form an image.

    Raises:
        ValueError: the positions of a run do not form a grid.
    """
    grids = []
    for run in np.split(np.arange(len(tokens)), np.flatnonzero(np.diff(tokens) != 1) + 1) if len(tokens) else ():
        y, x = positions[:, run] - positions[:, run].min(axis=1, keepdims=True)
        columns, rows = int(x.max()) + 1, int(y.max()) + 1
        places = y * columns + x
        if len(run) != columns * rows or len(np.unique(places)) != len(run):
            raise ValueError(f"{len(run)} visual tokens do not lie on a {columns} x {rows} grid: pass cells=.")
        grids.append(TokenGrid(run, columns, rows, places))
    return grids
