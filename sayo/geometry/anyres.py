"""LLaVA-Next and LLaVA-OneVision: a base view, then one grid over a padded canvas of tiles, with newline tokens."""

import math
from dataclasses import dataclass

import numpy as np

from sayo.geometry.cells import (
    LayoutError,
    VisualCells,
    clip_to_image,
    footprints_of_grid,
    one_view,
    two_views,
    uniform_grid,
)
from sayo.geometry.settings import Json, edges_of, first, vision_setting

Edges = tuple[np.ndarray, np.ndarray]
"""First and last edge of each column, or of each row."""


@dataclass(frozen=True)
class Canvas:
    """The canvas of one image, in canvas pixels, and the patches that are left once its padding is cut off."""

    resized: tuple[int, int]  # (width, height) of the image on the canvas
    paste: tuple[int, int]  # (x, y) of its top left corner
    columns: np.ndarray  # left edges of the columns of patches
    rows: np.ndarray  # top edges of the rows of patches


@dataclass(frozen=True)
class AnyresGrid:
    """LLaVA-Next: aspect kept, centred on the canvas that wastes least, unpadded by whole patches."""

    tile: int
    patch_size: int
    pinpoints: tuple[tuple[int, int], ...]  # (height, width) of the canvases

    @classmethod
    def read(cls, image_processor: Json, config: Json, **more: int) -> "AnyresGrid":
        pinpoints = first(image_processor.get("image_grid_pinpoints"), config.get("image_grid_pinpoints"), [])
        if not pinpoints:
            raise LayoutError(
                "neither the processor's files nor config.json have image_grid_pinpoints, the tiles' sizes"
            )
        vision_type = (config.get("vision_config") or {}).get("model_type", "")
        if "clip" in vision_type and config.get("vision_feature_select_strategy") == "full":
            raise LayoutError("vision_feature_select_strategy='full' puts class tokens into each tile; use 'default'")
        tile = vision_setting(config, "image_size")
        size = edges_of(image_processor, "size", {"shortest_edge": tile})
        if set(size.values()) != {tile}:
            raise LayoutError(f"image processor size {size} differs from the vision tower's image_size {tile}")
        pinpoints = tuple((int(height), int(width)) for height, width in pinpoints)
        return cls(tile, vision_setting(config, "patch_size"), pinpoints, **more)

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        canvas = self.canvas(width, height)
        lines = self.lines(canvas, *self.edges(canvas), (width, height))
        return two_views(width, height, [(0, self.base(width, height)), (1, lines)])

    def base(self, width: int, height: int) -> np.ndarray:
        """Footprints of the whole image stretched to one tile, up to the rim that no patch reaches."""
        side = self.tile // self.patch_size
        used = side * self.patch_size / self.tile
        return uniform_grid(side, side, (0, 0, used * width, used * height))

    def canvas(self, width: int, height: int) -> Canvas:
        """Place the image on the best canvas and cut the padding off, in whole patches on both sides alike."""

        def fit(pinpoint: tuple[int, int]) -> tuple[int, int]:
            scale = min(pinpoint[1] / width, pinpoint[0] / height)
            effective = min(int(width * scale) * int(height * scale), width * height)
            return effective, -pinpoint[0] * pinpoint[1]

        canvas_h, canvas_w = max(self.pinpoints, key=fit)
        scale_w, scale_h = canvas_w / width, canvas_h / height
        if scale_w < scale_h:
            new_w, new_h = canvas_w, min(math.ceil(height * scale_w), canvas_h)
        else:
            new_w, new_h = min(math.ceil(width * scale_h), canvas_w), canvas_h
        side = self.tile // self.patch_size
        in_tile = np.arange(side) * self.patch_size
        x = (np.arange(canvas_w // self.tile)[:, None] * self.tile + in_tile).ravel()
        y = (np.arange(canvas_h // self.tile)[:, None] * self.tile + in_tile).ravel()
        if width / height > len(x) / len(y):
            cut = (len(y) - int(round(height * (len(x) / width), 7))) // 2
            y = y[cut : len(y) - cut]
        else:
            cut = (len(x) - int(round(width * (len(y) / height), 7))) // 2
            x = x[cut : len(x) - cut]
        return Canvas((new_w, new_h), ((canvas_w - new_w) // 2, (canvas_h - new_h) // 2), x, y)

    def edges(self, canvas: Canvas) -> tuple[Edges, Edges]:
        """(first, last) edges of the columns and of the rows of the grid of tokens, in canvas pixels."""
        return (canvas.columns, canvas.columns + self.patch_size), (canvas.rows, canvas.rows + self.patch_size)

    def lines(self, canvas: Canvas, x: Edges, y: Edges, image: tuple[int, int]) -> np.ndarray:
        """Footprints of a grid with these `edges`, a newline token after every row; `image` is (W, H) in pixels."""
        scale_x, scale_y = image[0] / canvas.resized[0], image[1] / canvas.resized[1]
        x1, x2 = ((edges - canvas.paste[0]) * scale_x for edges in x)
        y1, y2 = ((edges - canvas.paste[1]) * scale_y for edges in y)
        grid = clip_to_image(footprints_of_grid(x1, x2, y1, y2), *image).reshape(len(y1), len(x1), 4)
        return np.concatenate([grid, np.full((len(y1), 1, 4), np.nan)], axis=1).reshape(-1, 4)


@dataclass(frozen=True)
class OneVisionGrid(AnyresGrid):
    """LLaVA-OneVision: the features of a large canvas shrink to a budget; several images are padded squares."""

    max_tiles: int

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "OneVisionGrid":
        aspect = first(config.get("vision_aspect_ratio"), "anyres_max_9")
        return super().read(image_processor, config, max_tiles=int(aspect.removeprefix("anyres_max_")))

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        return super().cells(width, height) if num_images == 1 else self.padded_square(width, height)

    def edges(self, canvas: Canvas) -> tuple[Edges, Edges]:
        x, y = super().edges(canvas)
        columns, rows = len(canvas.columns), len(canvas.rows)
        ratio = math.sqrt(columns * rows / (self.max_tiles * (self.tile // self.patch_size) ** 2))
        if ratio <= 1.1:
            return x, y
        left, right = shrunk(columns, int(columns // ratio))
        top, bottom = shrunk(rows, int(rows // ratio))
        return (x[0][left], x[1][right]), (y[0][top], y[1][bottom])

    def padded_square(self, width: int, height: int) -> VisualCells:
        """The layout of a sample with several images: padded to a square, one tile, one newline token."""
        side = max(width, height)
        offset = np.array([(side - width) // 2, (side - height) // 2] * 2)
        footprints = clip_to_image(self.base(side, side) - offset, width, height)
        footprints = np.concatenate([footprints, np.full((1, 4), np.nan)])
        return one_view(width, height, footprints)


def shrunk(count: int, new_count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last of the `count` cells that each of `new_count` bilinear samples reads (align_corners=False)."""
    source = np.maximum((np.arange(new_count) + 0.5) * count / new_count - 0.5, 0)
    low = np.floor(source).astype(np.int64)
    return low, np.minimum(low + (source > low), count - 1)
