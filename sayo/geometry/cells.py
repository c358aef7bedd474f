"""The cells of one image: which rectangle of the original picture each visual token comes from."""

from dataclasses import dataclass

import numpy as np

from sayo.errors import SayoError


class LayoutError(SayoError, ValueError):
    """An image, a processor or a family whose visual tokens have no known place; the message says what to do."""


@dataclass(frozen=True, eq=False)
class VisualCells:
    """Footprints of the visual tokens of one image: a row per id equal to `config.image_token_id`, in sequence order.

    A footprint says where a token *comes from*. A trained vision tower mixes patches by attention, so it is not the
    only part of the image that a token may know about.

    Attributes:
        footprints: `(N, 4)` float64, xyxy in pixels of the original image (continuous coordinates: the whole image is
            `(0, 0, W, H)`), clipped to the image. A row of NaN is a token that sees no pixel: a newline separator that
            shares the image id (LLaVA-Next) or a cell that lies in padding.
        views: `(N,)` int64. 0 = the whole picture in one grid (a single-grid model, or the thumbnail / base / global
            view of a tiled one); 1 = the mosaic of tiles or crops. An object appears once in each view.
        image_size: `(W, H)` in pixels.
        grid: `(columns, rows)` when all tokens form one row-major grid (for heat maps), else None.
    """

    footprints: np.ndarray
    views: np.ndarray
    image_size: tuple[int, int]
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        count = len(self.footprints)
        if self.footprints.shape != (count, 4) or self.views.shape != (count,):
            raise ValueError(
                f"footprints {self.footprints.shape} and views {self.views.shape} must be (N, 4) and (N,)"
            )
        if self.grid is not None and self.grid[0] * self.grid[1] != count:
            raise ValueError(f"a grid of {self.grid[0]} x {self.grid[1]} cells does not hold {count} tokens")

    def __len__(self) -> int:
        """Number of visual tokens `N`."""
        return len(self.footprints)


def footprints_of_grid(x1: np.ndarray, x2: np.ndarray, y1: np.ndarray, y2: np.ndarray) -> np.ndarray:
    """Footprints of a row-major grid, `(rows * columns, 4)` float64 xyxy.

    `x1`, `x2` are the `(columns,)` left and right edges, `y1`, `y2` the `(rows,)` top and bottom edges, in any unit.
    """
    columns, rows = len(x1), len(y1)
    footprints = np.empty((rows, columns, 4))
    footprints[..., 0], footprints[..., 2] = x1, x2
    footprints[..., 1], footprints[..., 3] = np.asarray(y1)[:, None], np.asarray(y2)[:, None]
    return footprints.reshape(-1, 4)


def uniform_grid(columns: int, rows: int, box: tuple[float, float, float, float]) -> np.ndarray:
    """Footprints `(rows * columns, 4)` of equal cells that tile `box` (xyxy), row-major."""
    x = box[0] + (box[2] - box[0]) * np.arange(columns + 1) / columns
    y = box[1] + (box[3] - box[1]) * np.arange(rows + 1) / rows
    return footprints_of_grid(x[:-1], x[1:], y[:-1], y[1:])


def one_view(width: int, height: int, footprints: np.ndarray, grid: tuple[int, int] | None = None) -> VisualCells:
    """Cells of a single view of the whole picture."""
    return VisualCells(footprints, np.zeros(len(footprints), dtype=np.int64), (width, height), grid)


def single_grid(width: int, height: int, columns: int, rows: int) -> VisualCells:
    """Cells of an image that is stretched as a whole to `columns x rows` tokens."""
    return one_view(width, height, uniform_grid(columns, rows, (0, 0, width, height)), (columns, rows))


def mosaic(columns: int, rows: int, side: int, image: tuple[float, float], used: float = 1.0) -> np.ndarray:
    """Footprints of an image that is stretched to `columns x rows` tiles of `side x side` cells, tile after tile.

    Tiles are row-major, and so are the cells inside a tile: `(rows * columns * side * side, 4)` float64.

    Args:
        image: `(W, H)` in pixels.
        used: part of each tile, from its top left, that the patches reach (378 / 384 for 384-pixel tiles and 14-pixel
            patches).
    """
    width, height = image[0] / columns, image[1] / rows
    footprints = np.concatenate(
        [
            uniform_grid(side, side, (c * width, r * height, (c + used) * width, (r + used) * height))
            for r in range(rows)
            for c in range(columns)
        ]
    )
    return np.minimum(footprints, (*image, *image))  # (columns * width) may round to more than the image


def clip_to_image(footprints: np.ndarray, width: int, height: int) -> np.ndarray:
    """Cut footprints `(N, 4)` off at the image's border; those that lie in padding become NaN."""
    clipped = np.clip(footprints, 0.0, [width, height, width, height])
    empty = (clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1])
    return np.where(empty[:, None], np.nan, clipped)


def two_views(width: int, height: int, parts: list[tuple[int, np.ndarray]]) -> VisualCells:
    """Cells of several views in sequence order: `(view number, footprints)` of each part."""
    views = np.concatenate([np.full(len(part), view, dtype=np.int64) for view, part in parts])
    return VisualCells(np.concatenate([part for _, part in parts]), views, (width, height))
