"""Builders of one grid per image: Qwen-VL, GLM-4V, PaliGemma, Gemma3n, Gemma4, Pixtral / Mistral3, LLaVA-1.5."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sayo.geometry.cells import LayoutError, VisualCells, clip_to_image, one_view, single_grid, uniform_grid
from sayo.geometry.settings import Json, edges_of, first, square, vision_setting


@dataclass(frozen=True)
class SmartResizeGrid:
    """Qwen-VL: both sides rounded to multiples of `patch_size * merge_size`, within two pixel limits."""

    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "SmartResizeGrid":
        size = image_processor.get("size") or {}
        # As in the image processor, the old names win where a file or an object has both.
        low = first(image_processor.get("min_pixels"), size.get("shortest_edge"), size.get("min_pixels"), 56 * 56)
        high = first(
            image_processor.get("max_pixels"), size.get("longest_edge"), size.get("max_pixels"), 28 * 28 * 1280
        )
        patch_size, merge_size = image_processor.get("patch_size"), image_processor.get("merge_size")
        return cls(int(first(patch_size, 14)), int(first(merge_size, 2)), int(low), int(high))

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        columns, rows = smart_grid(width, height, self.patch_size * self.merge_size, self.min_pixels, self.max_pixels)
        return single_grid(width, height, columns, rows)


def smart_grid(width: int, height: int, factor: int, min_pixels: float, max_pixels: float) -> tuple[int, int]:
    """(columns, rows) of `factor`-pixel cells that Qwen's `smart_resize` gives an image.

    Raises:
        LayoutError: one side is more than 200 times the other, as in the image processor.
    """
    if max(width, height) / min(width, height) > 200:
        raise LayoutError(
            f"image size {width} x {height} (W x H): one side is more than 200 times the other, which the image "
            "processor refuses; drop or crop this image"
        )
    columns, rows = round(width / factor), round(height / factor)
    pixels = columns * rows * factor**2
    if pixels > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        columns = max(1, math.floor(width / shrink / factor))
        rows = max(1, math.floor(height / shrink / factor))
    elif pixels < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        columns, rows = math.ceil(width * grow / factor), math.ceil(height * grow / factor)
    return columns, rows


@dataclass(frozen=True)
class FrameResizeGrid(SmartResizeGrid):
    """GLM-4V: as Qwen, but an image counts as `temporal_patch_size` frames against the pixel limits."""

    temporal_patch_size: int

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "FrameResizeGrid":
        size = image_processor.get("size") or {}
        names = ("patch_size", 14), ("merge_size", 2), ("temporal_patch_size", 2)
        settings = {name: int(first(image_processor.get(name), value)) for name, value in names}
        low, high = first(size.get("shortest_edge"), 112 * 112), first(size.get("longest_edge"), 28 * 28 * 15000)
        return cls(**settings, min_pixels=int(low), max_pixels=int(high))

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        factor, frames = self.patch_size * self.merge_size, self.temporal_patch_size
        w, h = width, height
        if min(w, h) < factor:  # a side below one cell is first scaled up to it
            scale = max(factor / h, factor / w)
            w, h = int(w * scale), int(h * scale)
        columns, rows = smart_grid(w, h, factor, self.min_pixels / frames, self.max_pixels / frames)
        return single_grid(width, height, columns, rows)


@dataclass(frozen=True)
class StretchedGrid:
    """PaliGemma: every image is stretched to the same `columns x rows` patches."""

    columns: int
    rows: int

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "StretchedGrid":
        size = edges_of(image_processor, "size", {"height": 224, "width": 224})
        patch = vision_setting(config, "patch_size")
        return cls(size["width"] // patch, size["height"] // patch)

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        return single_grid(width, height, self.columns, self.rows)


@dataclass(frozen=True)
class SoftTokenGrid(StretchedGrid):
    """Gemma3n: stretched; the vision tower's map is pooled to a square of soft tokens."""

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "SoftTokenGrid":
        side = math.isqrt(int(first(config.get("vision_soft_tokens_per_image"), 256)))
        return cls(side, side)


@dataclass(frozen=True)
class BudgetGrid:
    """Gemma4: as large as `max_tokens` cells allow, each side down to a multiple of `cell` pixels."""

    cell: int
    max_tokens: int

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "BudgetGrid":
        if image_processor.get("size"):
            raise LayoutError("Gemma4's image processor has no size: save it with another max_soft_tokens")
        names = {"patch_size": 16, "pooling_kernel_size": 3, "max_soft_tokens": 280}
        patch, pooled, most = (int(first(image_processor.get(name), value)) for name, value in names.items())
        return cls(patch * pooled, most)

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        factor = math.sqrt(self.max_tokens * self.cell**2 / (height * width))
        columns, rows = math.floor(factor * width / self.cell), math.floor(factor * height / self.cell)
        if rows == 0:
            columns, rows = min(width // height, self.max_tokens), 1
        elif columns == 0:
            columns, rows = 1, min(height // width, self.max_tokens)
        return single_grid(width, height, columns, rows)


@dataclass(frozen=True)
class PixtralGrid:
    """Pixtral and Mistral3: shrunk to the longest edge, then each side up to a multiple of `cell` pixels."""

    cell: int
    max_width: int
    max_height: int

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "PixtralGrid":
        patch = first((config.get("vision_config") or {}).get("patch_size"), image_processor.get("patch_size"), 16)
        merge = int(first(config.get("spatial_merge_size"), 2)) if config["model_type"] == "mistral3" else 1
        size = edges_of(image_processor, "size", {"longest_edge": 1024})
        longest = size.get("longest_edge")
        return cls(square(patch) * merge, longest or size["width"], longest or size["height"])

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        ratio = max(height / self.max_height, width / self.max_width, 1.0)
        w, h = math.floor(width / ratio), math.floor(height / ratio)
        if min(w, h) < 1:
            raise LayoutError(f"image size {width} x {height} shrinks to nothing in the image processor; drop it")
        return single_grid(width, height, math.ceil(w / self.cell), math.ceil(h / self.cell))


@dataclass(frozen=True)
class ClipGrid:
    """LLaVA-1.5: (pad to a square,) resize, (crop the centre,) one grid; what the crop cuts off has no token."""

    patch_size: int
    pad: bool
    resize: tuple[int, int] | int  # (width, height) to stretch to, or the new shortest edge
    crop: tuple[int, int] | None  # (width, height)
    class_token: bool
    alternatives: ClassVar = (PixtralGrid,)  # what `read` returns instead: LLaVA around Pixtral's tower

    @classmethod
    def read(cls, image_processor: Json, config: Json) -> "ClipGrid | PixtralGrid":
        vision = config.get("vision_config") or {}
        if vision.get("model_type") == "pixtral":
            return PixtralGrid.read(image_processor, config)
        size = edges_of(image_processor, "size", {"shortest_edge": 224})
        crop = edges_of(image_processor, "crop_size", {"height": 224, "width": 224})
        crop_edge = crop.get("shortest_edge")
        cropped = bool(first(image_processor.get("do_center_crop"), "siglip" not in vision.get("model_type", "")))
        keeps_class = config.get("vision_feature_select_strategy") == "full" and "clip" in vision.get("model_type", "")
        return cls(
            vision_setting(config, "patch_size"),
            bool(image_processor.get("do_pad")),
            size.get("shortest_edge") or (size["width"], size["height"]),
            (crop_edge or crop["width"], crop_edge or crop["height"]) if cropped else None,
            keeps_class,
        )

    def cells(self, width: int, height: int, num_images: int = 1) -> VisualCells:
        square_side = max(width, height)
        w, h = (square_side, square_side) if self.pad else (width, height)
        before_x, before_y = (w - width) // 2, (h - height) // 2
        if isinstance(self.resize, int):
            short, long = self.resize, int(self.resize * max(w, h) / min(w, h))
            new_w, new_h = (short, long) if w <= h else (long, short)
        else:
            new_w, new_h = self.resize
        seen_w, seen_h = self.crop or (new_w, new_h)
        left, top = (new_w - seen_w) // 2, (new_h - seen_h) // 2  # negative: the crop pads
        columns, rows = seen_w // self.patch_size, seen_h // self.patch_size
        patches = uniform_grid(columns, rows, (0, 0, columns * self.patch_size, rows * self.patch_size))
        scale, before = np.array([w / new_w, h / new_h] * 2), np.array([before_x, before_y] * 2)
        footprints = clip_to_image((patches + np.array([left, top] * 2)) * scale - before, width, height)
        if self.class_token:
            footprints = np.concatenate([np.full((1, 4), np.nan), footprints])
        return one_view(width, height, footprints, None if self.class_token else (columns, rows))
