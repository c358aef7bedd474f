"""Builders of tiled models with canvases of their own: Cohere2 Vision, Ovis2, Perception LM, Llama4 and Molmo2.

Where several canvases come close, what counts is the order in which the image processor tries them, its rounding and
its precision.
"""

import math
import re
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import numpy as np

from sayo.geometry import cells as c
from sayo.geometry.settings import Json, edges_of, first, square, vision_setting
from sayo.geometry.tiles import InternGrid

Grid = tuple[int, int]
"""(columns, rows)."""


@dataclass(frozen=True)
class CohereGrid(InternGrid):
    """Cohere2 Vision: the canvas that enlarges the image least, or else shrinks it least."""

    processor_settings: ClassVar[Json] = {}
    defaults: ClassVar[Json] = {**InternGrid.defaults, "size": {"height": 512, "width": 512}, "crop_to_patches": True}

    def canvas(self, width: int, height: int) -> Grid:
        return least_resized(by_area(self.max_tiles), self.tile, (width, height), np.float64)


@dataclass(frozen=True)
class OvisGrid(InternGrid):
    """Ovis2: the whole picture, then the fewest tiles that nine tenths of it fill."""

    covering: bool

    processor_settings: ClassVar[Json] = {}
    defaults: ClassVar[Json] = {**InternGrid.defaults, "size": {"height": 384, "width": 384}, "crop_to_patches": False}
    thumbnail_first: ClassVar[bool] = True

    @classmethod
    def read(cls, image_processor: Json, config: Json, **more: bool) -> "OvisGrid":
        covering = bool(first(image_processor.get("use_covering_area_grid"), True))
        return super().read(image_processor, config, covering=covering)

    def canvas(self, width: int, height: int) -> Grid:
        if not self.covering or self.max_tiles <= 1:
            return super().canvas(width, height)
        filled = {grid: self.filled(*grid, width, height) for grid in by_area(self.max_tiles)}
        if enough := [grid for grid in filled if filled[grid] > 0.9]:
            return min(enough, key=lambda grid: (math.prod(grid), -filled[grid]))
        return max(filled, key=lambda grid: (filled[grid], -math.prod(grid)))

    def filled(self, rows: int, columns: int, width: int, height: int) -> float:
        """Share of the image that its parts keep when each is shrunk to the tile's side.

        What the image processor takes for rows here, it calls columns afterwards.
        """
        heights = [height // rows] * (rows - 1) + [height - height // rows * (rows - 1)]
        widths = [width // columns] * (columns - 1) + [width - width // columns * (columns - 1)]
        parts = [(max(w, h), min(w, h)) for h in heights for w in widths]
        kept = (self.tile * (b / a * self.tile) if a > self.tile else a * b for a, b in parts)
        return sum(kept) / (width * height)


@dataclass(frozen=True)
class PerceptionGrid:
    """Perception LM: the whole picture, then tiles of the canvas on which the image's short edge is longest."""

    side: int
    tile: int
    max_tiles: int  # 0: the whole picture only

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "PerceptionGrid":
        tile = int(first(image_processor.get("tile_size"), 448))
        vision = config.get("vision_config") or {}
        named = re.search(r"patch(\d+)", vision.get("architecture") or "")
        patch = (vision.get("model_args") or {}).get("patch_size") or (named and named[1])
        if patch is None:
            raise c.LayoutError("neither vision_config.model_args nor its architecture in config.json names patches")
        side = tile // int(patch) // int(first(config.get("projector_pooling_ratio"), 1))
        tiled = first(image_processor.get("vision_input_type"), "thumb+tile") == "thumb+tile"
        return cls(side, tile, int(first(image_processor.get("max_num_tiles"), 36)) if tiled else 0)

    def cells(self, width: int, height: int, num_images: int = 1) -> c.VisualCells:
        whole = c.single_grid(width, height, self.side, self.side)
        if not self.max_tiles:
            return whole
        tiles = c.mosaic(*self.canvas(width, height), self.side, (width, height))
        return c.two_views(width, height, [(0, whole.footprints), (1, tiles)])

    def canvas(self, width: int, height: int) -> Grid:
        """(columns, rows) of tiles: a canvas that the image fits into, else the closest aspect that is not longer."""
        aspect, grids = width / height, by_aspect(self.max_tiles)
        best, longest = None, 0.0
        for columns, rows in chain(*grids.values()):
            canvas_w, canvas_h = columns * self.tile, rows * self.tile
            scale = min(canvas_w / width, canvas_h / height)
            short = scale * width / aspect if aspect > 1 else scale * height * aspect
            short = short if aspect == 1 else math.floor(short)
            if canvas_w >= width and canvas_h >= height and short >= longest:
                best, longest = (columns, rows), short
        if best is not None:
            return best
        if aspect >= 1:
            return max(grids[max(a for a in grids if a <= aspect)], key=lambda grid: grid[0])
        return max(grids[min(a for a in grids if a > aspect)], key=lambda grid: grid[1])


@dataclass(frozen=True)
class LlamaGrid:
    """Llama4: aspect kept, at the top left of a canvas of tiles that padding fills; then the stretched whole."""

    side: int
    tile: int
    max_tiles: int
    enlarge: bool

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "LlamaGrid":
        ratio = first((config.get("vision_config") or {}).get("pixel_shuffle_ratio"), 0.5)
        side = int(vision_setting(config, "image_size") // vision_setting(config, "patch_size") * float(ratio))
        tile = square(edges_of(image_processor, "size", {"height": 336, "width": 336}))
        enlarge = bool(first(image_processor.get("resize_to_max_canvas"), False))
        return cls(side, tile, int(first(image_processor.get("max_patches"), 16)), enlarge)

    def cells(self, width: int, height: int, num_images: int = 1) -> c.VisualCells:
        columns, rows = self.canvas(width, height)
        most_w, most_h = canvas = columns * self.tile, rows * self.tile
        if not self.enlarge:
            most_w, most_h = min(max(width, self.tile), most_w), min(max(height, self.tile), most_h)
        scale_w, scale_h = most_w / width, most_h / height
        if scale_w < scale_h:
            new_w, new_h = most_w, min(math.floor(height * scale_w), most_h)
        else:
            new_w, new_h = min(math.floor(width * scale_h), most_w), most_h
        canvas = canvas[0] * width / max(new_w, 1), canvas[1] * height / max(new_h, 1)
        tiles = c.clip_to_image(c.mosaic(columns, rows, self.side, canvas), width, height)
        if columns * rows == 1:
            return c.one_view(width, height, tiles, (self.side, self.side))
        whole = c.uniform_grid(self.side, self.side, (0, 0, width, height))
        return c.two_views(width, height, [(1, tiles), (0, whole)])

    def canvas(self, width: int, height: int) -> Grid:
        """(columns, rows) of tiles: the smallest of those on which the image grows least, or shrinks least."""
        grids = [(columns, rows) for rows, columns in chain(*by_aspect(self.max_tiles).values())]
        scales = scales_of(grids, self.tile, (width, height), np.float32)
        larger = scales[scales >= 1]
        scale = larger.min() if len(larger) and not self.enlarge else scales.max()
        return min((grid for grid, own in zip(grids, scales, strict=True) if own == scale), key=math.prod)


@dataclass(frozen=True)
class MolmoGrid:
    """Molmo2: the stretched whole picture, then one grid over a canvas of overlapping crops; patches are pooled."""

    crop: int  # patches along a side of a crop
    margins: int  # of them, those that the neighbouring crops have too
    patch_size: int
    max_crops: int
    pooling: Grid

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "MolmoGrid":
        patch_size = int(first(image_processor.get("patch_size"), 14))
        crop = square(edges_of(image_processor, "size", {"height": 378, "width": 378})) // patch_size
        margins = sum(first(image_processor.get("overlap_margins"), (4, 4)))
        rows, columns = first(image_processor.get("pooling_size"), (2, 2))
        return cls(crop, margins, patch_size, int(first(image_processor.get("max_crops"), 8)), (columns, rows))

    def cells(self, width: int, height: int, num_images: int = 1) -> c.VisualCells:
        window, margin = self.crop - self.margins, self.margins * self.patch_size
        grids = sorted(by_area(self.max_crops), key=lambda grid: (math.prod(grid), grid[1]))
        tile, inner = window * self.patch_size, (width - margin, height - margin)
        columns, rows = least_resized(grids, tile, inner, np.float32)
        patches, image = (columns * window + self.margins, rows * window + self.margins), (width, height)
        views = self.pooled((self.crop, self.crop), image), self.pooled(patches, image)
        return c.two_views(width, height, list(enumerate(views)))

    def pooled(self, patches: Grid, image: Grid) -> np.ndarray:
        """Footprints of an image that is stretched to so many patches; half of what a pool misses is on each side."""
        edges = []
        for count, pool, length in zip(patches, self.pooling, image, strict=True):
            starts = np.arange(math.ceil(count / pool)) * pool - (-count % pool) // 2
            edges += [np.maximum(starts, 0) * length / count, np.minimum(starts + pool, count) * length / count]
        return c.footprints_of_grid(*edges)


def by_area(most: int) -> list[Grid]:
    """All grids of at most `most` tiles."""
    return sorted(((a, b) for a in range(1, most + 1) for b in range(1, most // a + 1)), key=math.prod)


def by_aspect(most: int) -> dict[float, list[Grid]]:
    """All (a, b) of at most `most` tiles under their a / b, those with more tiles first."""
    found: dict[float, list[Grid]] = {}
    for count in range(most, 0, -1):
        for a in (a for a in range(1, count + 1) if count % a == 0):
            found.setdefault(a / (count // a), []).append((a, count // a))
    return found


def scales_of(grids: list[Grid], tile: int, image: Grid, dtype: type) -> np.ndarray:
    """By how much an image (W, H) grows to fit onto a canvas of each grid of tiles."""
    with np.errstate(divide="ignore"):  # Molmo2 takes its margins off small images
        return ((np.array(grids) * tile).astype(dtype) / np.array(image, dtype)).min(axis=1)


def least_resized(grids: list[Grid], tile: int, image: Grid, dtype: type) -> Grid:
    """The first grid that enlarges an image least; where all shrink it, the one that does so least."""
    scales = scales_of(grids, tile, image, dtype)
    return grids[scales.argmax() if (scales < 1).all() else np.where(scales < 1, np.inf, scales).argmin()]
