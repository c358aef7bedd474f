"""Builders of tiled models with canvases of their own: Aya, Cohere2, Ovis2, Perception LM, Llama4 and Molmo2."""

import math
import re
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import numpy as np

from sayo.geometry.cells import (
    LayoutError,
    VisualCells,
    clip_to_image,
    footprints_of_grid,
    mosaic,
    one_view,
    single_grid,
    two_views,
    uniform_grid,
)
from sayo.geometry.settings import Json, edges_of, first, square, vision_setting
from sayo.geometry.tiles import InternGrid

Grid = tuple[int, int]
"""(columns, rows)."""


@dataclass(frozen=True)
class AyaGrid(InternGrid):
    """Aya Vision: InternVL's tiles, their patches merged by a whole factor."""

    @staticmethod
    def side_of(patches: int, config: Json) -> int:
        return merged(patches, int(first(config.get("downsample_factor"), 2)))


@dataclass(frozen=True)
class CohereGrid(AyaGrid):
    """Cohere2 Vision: the canvas that enlarges the image least, or else shrinks it least."""

    processor_settings: ClassVar[Json] = {}

    @classmethod
    def read(cls, image_processor: Json, config: Json, **more: bool) -> "CohereGrid":
        default = {"size": {"height": 512, "width": 512}, "crop_to_patches": True}
        return super().read({**default, **image_processor}, config)

    def canvas(self, width: int, height: int) -> Grid:
        most = range(1, self.max_tiles + 1)
        grids = sorted(((c, r) for c in most for r in most if c * r <= self.max_tiles), key=math.prod)
        return least_resized(grids, self.tile, (width, height), np.float64)


@dataclass(frozen=True)
class OvisGrid(InternGrid):
    """Ovis2: the whole picture, then the fewest tiles that nine tenths of it fill."""

    covering: bool

    processor_settings: ClassVar[Json] = {}
    thumbnail_first: ClassVar[bool] = True

    @staticmethod
    def side_of(patches: int, config: Json) -> int:
        return merged(patches, int(first((config.get("vision_config") or {}).get("hidden_stride"), 1)))

    @classmethod
    def read(cls, image_processor: Json, config: Json, **more: bool) -> "OvisGrid":
        default = {"size": {"height": 384, "width": 384}, "crop_to_patches": False}
        covering = bool(first(image_processor.get("use_covering_area_grid"), True))
        return super().read({**default, **image_processor}, config, covering=covering)

    def canvas(self, width: int, height: int) -> Grid:
        if not self.covering or self.max_tiles <= 1:
            return super().canvas(width, height)
        most = range(1, self.max_tiles + 1)
        grids = sorted(((c, r) for c in most for r in most if c * r <= self.max_tiles), key=math.prod)
        filled = {grid: self.filled(*grid, width, height) for grid in grids}
        enough = [grid for grid in grids if filled[grid] > 0.9]
        if enough:
            return min(enough, key=lambda grid: (math.prod(grid), -filled[grid]))
        return max(grids, key=lambda grid: (filled[grid], -math.prod(grid)))

    def filled(self, first: int, second: int, width: int, height: int) -> float:
        """Share of the image that its parts keep when each is shrunk to the tile's side.

        The image processor cuts `first` rows and `second` columns here, and calls them columns and rows afterwards.
        """
        part_h, part_w, total = height // first, width // second, 0.0
        for row in range(first):
            for column in range(second):
                h = height - row * part_h if row == first - 1 else part_h
                w = width - column * part_w if column == second - 1 else part_w
                long, short = max(w, h), min(w, h)
                total += self.tile * (short / long * self.tile) if long > self.tile else long * short
        return total / (width * height)


@dataclass(frozen=True)
class PerceptionGrid:
    """Perception LM: the whole picture, then tiles of the canvas on which the image's short edge is longest."""

    side: int
    tile: int
    max_tiles: int | None  # None: the whole picture only

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "PerceptionGrid":
        tile = int(first(image_processor.get("tile_size"), 448))
        vision = config.get("vision_config") or {}
        named = re.search(r"patch(\d+)", vision.get("architecture") or "")
        patch = (vision.get("model_args") or {}).get("patch_size") or (named and named[1])
        if patch is None:
            raise LayoutError("config.json names no patch size: neither vision_config.model_args nor its architecture")
        side = merged(tile // int(patch), int(first(config.get("projector_pooling_ratio"), 1)))
        tiled = first(image_processor.get("vision_input_type"), "thumb+tile") == "thumb+tile"
        return cls(side, tile, int(first(image_processor.get("max_num_tiles"), 36)) if tiled else None)

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        if self.max_tiles is None:
            return single_grid(width, height, self.side, self.side)
        whole = uniform_grid(self.side, self.side, (0, 0, width, height))
        tiles = mosaic(*self.canvas(width, height), self.side, (width, height))
        return two_views(width, height, [(0, whole), (1, tiles)])

    def canvas(self, width: int, height: int) -> Grid:
        """(columns, rows) of tiles: a canvas that the image fits into, else the closest aspect that is not longer."""
        if self.max_tiles == 1:
            return 1, 1
        aspect, by_aspect = width / height, grids_by_aspect(self.max_tiles)
        best, longest = None, 0.0
        for columns, rows in chain(*by_aspect.values()):
            canvas_w, canvas_h = columns * self.tile, rows * self.tile
            if canvas_w < width or canvas_h < height:
                continue
            scale = min(canvas_w / width, canvas_h / height)
            if aspect > 1:
                short = math.floor(scale * width / aspect)
            else:
                short = math.floor(scale * height * aspect) if aspect < 1 else scale * height
            if best is None or short >= longest:
                best, longest = (columns, rows), short
        if best is not None:
            return best
        if aspect >= 1:
            near = min((one for one in by_aspect if one <= aspect), key=lambda one: abs(one - aspect))
            return max(by_aspect[near], key=lambda grid: grid[0])
        near = min((one for one in by_aspect if one > aspect), key=lambda one: abs(1 / one - 1 / aspect))
        return max(by_aspect[near], key=lambda grid: grid[1])


@dataclass(frozen=True)
class LlamaGrid:
    """Llama4: aspect kept, at the top left of a canvas of tiles that padding fills; then the stretched whole."""

    side: int
    tile: int
    max_tiles: int
    enlarge: bool

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "LlamaGrid":
        vision = config.get("vision_config") or {}
        patches = vision_setting(config, "image_size") // vision_setting(config, "patch_size")
        tile = square(edges_of(image_processor, "size", {"height": 336, "width": 336}))
        side = int(patches * float(first(vision.get("pixel_shuffle_ratio"), 0.5)))
        enlarge = bool(first(image_processor.get("resize_to_max_canvas"), False))
        return cls(side, tile, int(first(image_processor.get("max_patches"), 16)), enlarge)

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        columns, rows = self.canvas(width, height)
        most_w, most_h = columns * self.tile, rows * self.tile
        if not self.enlarge:
            most_w, most_h = min(max(width, self.tile), most_w), min(max(height, self.tile), most_h)
        scale_w, scale_h = most_w / width, most_h / height
        if scale_w < scale_h:
            new_w, new_h = most_w, min(math.floor(height * scale_w), most_h)
        else:
            new_w, new_h = min(math.floor(width * scale_h), most_w), most_h
        canvas = columns * self.tile * width / max(new_w, 1), rows * self.tile * height / max(new_h, 1)
        tiles = clip_to_image(mosaic(columns, rows, self.side, canvas), width, height)
        if columns * rows == 1:
            return one_view(width, height, tiles, (self.side, self.side))
        return two_views(width, height, [(1, tiles), (0, uniform_grid(self.side, self.side, (0, 0, width, height)))])

    def canvas(self, width: int, height: int) -> Grid:
        """(columns, rows) of tiles; single precision, as in the image processor, where scales are compared."""
        grids = [(columns, rows) for rows, columns in chain(*grids_by_aspect(self.max_tiles).values())]
        scales = scales_of(grids, self.tile, (width, height), np.float32)
        larger = scales[scales >= 1]
        if len(larger):
            scale = larger.max() if self.enlarge else larger.min()
        else:
            scale = scales.max()
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

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        window, margin = self.crop - self.margins, self.margins * self.patch_size
        most = range(1, self.max_crops + 1)
        grids = [(c, r) for r in most for c in most if c * r <= self.max_crops]
        grids.sort(key=lambda grid: (math.prod(grid), grid[1]))
        seen = (width - margin, height - margin)
        columns, rows = least_resized(grids, window * self.patch_size, seen, np.float32)
        patches = columns * window + self.margins, rows * window + self.margins
        image = (width, height)
        return two_views(
            width, height, [(0, self.pooled((self.crop, self.crop), image)), (1, self.pooled(patches, image))]
        )

    def pooled(self, patches: Grid, image: Grid) -> np.ndarray:
        """Footprints of an image that is stretched to so many patches, the cut-off windows half on either side."""
        edges = []
        for count, pool, length in zip(patches, self.pooling, image, strict=True):
            starts = np.arange(math.ceil(count / pool)) * pool - (-count % pool) // 2
            edges += [np.maximum(starts, 0) * length / count, np.minimum(starts + pool, count) * length / count]
        return footprints_of_grid(*edges)


def merged(patches: int, factor: int) -> int:
    """Columns of tokens of a tile; LayoutError where a token would reach beyond it."""
    if patches % factor:
        raise LayoutError(f"{patches} patches along a tile are no multiple of {factor}, which tokens merge")
    return patches // factor


def grids_by_aspect(most: int) -> dict[float, list[Grid]]:
    """All (a, b) of at most `most` tiles under their a / b, in the order in which image processors try them."""
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
    best = scales.argmax() if (scales < 1).all() else np.where(scales < 1, np.inf, scales).argmin()
    return grids[best]
