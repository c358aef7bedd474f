"""Builders of tiled models: InternVL, Idefics3 / SmolVLM, and Gemma3 with its pan & scan crops."""

import math
from dataclasses import dataclass
from typing import ClassVar

from sayo.geometry.cells import VisualCells, mosaic, one_view, single_grid, two_views, uniform_grid
from sayo.geometry.settings import Json, edges_of, first, square, vision_setting


@dataclass(frozen=True)
class GemmaGrid:
    """Gemma3: stretched to one `side x side` grid; with pan & scan, crops of the long side follow, each a grid."""

    side: int
    pan_and_scan: tuple[int, int, float] | None  # least crop size in pixels, most crops, least aspect ratio

    # The processor's own settings at every call; they come before those of its image processor.
    processor_settings: ClassVar[Json] = {
        "do_pan_and_scan": False,
        "pan_and_scan_min_crop_size": 256,
        "pan_and_scan_max_num_crops": 4,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    }

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "GemmaGrid":
        names = {"min_crop_size": int, "max_num_crops": int, "min_ratio_to_activate": float}
        limits = tuple(kind(image_processor[f"pan_and_scan_{name}"]) for name, kind in names.items())
        side = math.isqrt(int(first(config.get("mm_tokens_per_image"), 256)))
        return cls(side, limits if image_processor["do_pan_and_scan"] else None)

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        crops = self.crops(width, height)
        if not crops:
            return single_grid(width, height, self.side, self.side)
        boxes = [(0, 0, width, height), *crops]
        return two_views(
            width, height, [(min(i, 1), uniform_grid(self.side, self.side, box)) for i, box in enumerate(boxes)]
        )

    def crops(self, width: int, height: int) -> list[tuple[int, int, int, int]]:
        """Boxes (xyxy) of the pan & scan crops, left to right or top to bottom; none for an image close to square."""
        if self.pan_and_scan is None:
            return []
        least_crop, most_crops, least_ratio = self.pan_and_scan
        long, short = max(width, height), min(width, height)
        if long / short < least_ratio:
            return []
        count = min(most_crops, max(2, min(long // least_crop, math.floor(long / short + 0.5))))
        crop = math.ceil(long / count)
        if min(crop, short) < least_crop:
            return []
        spans = [(i * crop, min((i + 1) * crop, long)) for i in range(count)]
        return [(a, 0, b, height) if width >= height else (0, a, width, b) for a, b in spans]


@dataclass(frozen=True)
class InternGrid:
    """InternVL, Aya Vision: stretched to the tile canvas of closest aspect; with more than one tile, a thumbnail."""

    side: int
    tile: int
    min_tiles: int
    max_tiles: int

    processor_settings: ClassVar[Json] = {"crop_to_patches": True}
    defaults: ClassVar[Json] = {"size": {"height": 448, "width": 448}, "min_patches": 1, "max_patches": 12}
    thumbnail_first: ClassVar[bool] = False

    @classmethod
    def read(cls, image_processor: Json, config: Json, **more: bool) -> "InternGrid":
        settings = {**cls.defaults, **image_processor}
        patches = vision_setting(config, "image_size") // vision_setting(config, "patch_size")
        stride = first(config.get("downsample_factor"), (config.get("vision_config") or {}).get("hidden_stride"), 0)
        side = patches // int(stride) if stride else int(patches * float(first(config.get("downsample_ratio"), 0.5)))
        tiles = [int(settings["min_patches"]), int(settings["max_patches"])] if settings["crop_to_patches"] else [1, 1]
        return cls(side, square(edges_of(settings, "size", {})), *tiles, **more)

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        columns, rows = self.canvas(width, height)
        if columns * rows == 1:
            return single_grid(width, height, self.side, self.side)
        thumbnail = uniform_grid(self.side, self.side, (0, 0, width, height))
        parts = [(1, mosaic(columns, rows, self.side, (width, height))), (0, thumbnail)]
        return two_views(width, height, parts[::-1] if self.thumbnail_first else parts)

    def canvas(self, width: int, height: int) -> tuple[int, int]:
        """(columns, rows) of tiles; of equal aspects the larger one while below twice the image's area."""
        if self.max_tiles <= 1:
            return 1, 1
        most = range(1, self.max_tiles + 1)
        grids = [(c, r) for c in most for r in most if self.min_tiles <= c * r <= self.max_tiles]
        best, best_difference = (1, 1), math.inf
        for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
            difference = abs(width / height - columns / rows)
            large_enough = width * height > 0.5 * self.tile * self.tile * columns * rows
            if difference < best_difference or (difference == best_difference and large_enough):
                best, best_difference = (columns, rows), difference
        return best


@dataclass(frozen=True)
class IdeficsGrid:
    """Idefics3 and SmolVLM: longest edge to a size, each side up to a multiple of the tile; tiles, then the whole."""

    side: int
    tile: int
    patch_size: int
    longest_edge: int | None  # None: images are not split
    upper_bound: ClassVar[int] = 4096  # MAX_IMAGE_SIZE of the image processors

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "IdeficsGrid":
        tile = edges_of(image_processor, "max_image_size", {"longest_edge": 364})["longest_edge"]
        patch_size = vision_setting(config, "patch_size")
        longest = edges_of(image_processor, "size", {"longest_edge": 4 * 364})["longest_edge"]
        split = first(image_processor.get("do_image_splitting"), True)
        side = tile // patch_size // int(first(config.get("scale_factor"), 2))
        return cls(side, tile, patch_size, longest if split else None)

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        used = self.tile // self.patch_size * self.patch_size / self.tile  # the rim of a tile that no patch reaches
        image = (width, height)
        whole = mosaic(1, 1, self.side, image, used)
        columns, rows = self.canvas(width, height)
        if columns * rows == 1:
            return one_view(width, height, whole, (self.side, self.side))
        return two_views(width, height, [(1, mosaic(columns, rows, self.side, image, used)), (0, whole)])

    def canvas(self, width: int, height: int) -> tuple[int, int]:
        """(columns, rows) of tiles, rounding to whole pixels wherever the image processor does."""
        if self.longest_edge is None:
            return 1, 1
        w, h = fit(width, height, self.longest_edge)
        w, h = (w, h + h % 2) if width >= height else (w + w % 2, h)
        w, h = max(w, 1), max(h, 1)
        if max(w, h) > self.upper_bound:
            w, h = fit(w, h, self.upper_bound)
            w, h = max(w, 1), max(h, 1)
        w, h = fit(w, h, math.ceil(max(w, h) / self.tile) * self.tile)
        return math.ceil(w / self.tile), math.ceil(h / self.tile)


def fit(width: int, height: int, longest: int) -> tuple[int, int]:
    """(width, height) in whole pixels when the longer side becomes `longest`."""
    aspect = width / height
    return (longest, int(longest / aspect)) if width >= height else (int(longest * aspect), longest)
