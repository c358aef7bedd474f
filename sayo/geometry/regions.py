"""A region of an image, from a source's record to the visual tokens that it covers."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from sayo.geometry import masks
from sayo.geometry.boxes import Box, RegionError, box_of_xyxy, clip_box, turn_box
from sayo.geometry.cells import VisualCells

Space = Literal["pixels", "normalised"]
"""What box coordinates count: pixels, or shares of width and height."""

SOFT_THRESHOLD = 0.05
HARD_THRESHOLD = 0.5
_LEAST = 1e-6  # share of a cell: less is the rounding error of a mask's coverage


class Region(NamedTuple):
    """One place in one image that matters for the answer.

    Its role is `"answer"` (the object that is or carries the answer) or `"evidence"` (needed to find or compare it).
    A mask is what `masks.encode` takes: COCO polygons or run lengths, or an `(H, W)` bool array.
    """

    box: Box | None = None  # xyxy in `space`; may leave the image, `fit` clips it. None: the mask's own box
    role: Literal["answer", "evidence"] = "answer"
    weight: float = 1.0  # how much a visual token that the region covers counts; positive, 0..1 in prepared data
    label: str = ""  # the object's name
    image: int = 0  # index of the image within the sample
    mask: Any = None  # None where only the box is known
    space: Space = "pixels"

    @classmethod
    def of(cls, value: "Region | Mapping[str, Any] | Sequence[float] | np.ndarray") -> "Region":
        """A region, or an entry of the `regions` column of prepared data (`row`), a bare box or an `(H, W)` mask."""
        if isinstance(value, Region):
            return value
        if not isinstance(value, Mapping):
            value = np.asarray(value)
            return cls(mask=value.astype(bool)) if value.ndim == 2 else cls(tuple(value.tolist()))
        box, weight = value.get("box"), value.get("weight")
        return cls(
            None if box is None else tuple(box),
            value.get("role") or "answer",
            1.0 if weight is None else weight,
            value.get("label") or "",
            int(value.get("image") or 0),
            value.get("rle"),
        )

    def row(self) -> dict[str, Any]:
        """An entry of the `regions` column, after `fit`."""
        rle = None if self.mask is None else self.mask.counts
        return {"image": self.image, "box": list(self.box or ()), "rle": rle, "role": self.role,
                "weight": self.weight, "label": self.label}  # fmt: skip

    def fit(self, size: tuple[int, int]) -> "Region":
        """The region in pixels of an image of `size` (W, H), clipped to it, its mask as checked run lengths.

        This is where every region is checked.

        Raises:
            RegionError: malformed_record (neither box nor mask), those of `box_of_xyxy`, `clip_box` and
                `masks.encode`, and box_and_mask_differ.
        """
        if self.box is None and self.mask is None:
            raise RegionError("malformed_record", "a region needs a box or a mask")
        box = self.box and clip_box(self._in_pixels(size), size, f"box of {self.label!r}" if self.label else "box")
        if self.mask is None:
            return self._replace(box=box, space="pixels")
        mask = masks.encode(self.mask, size)
        if box and not masks.agree(box, mask.box):
            raise RegionError("box_and_mask_differ", f"box {[*box]} of {self.label!r}, its mask fills {[*mask.box]}")
        return self._replace(box=box or mask.box, mask=mask, space="pixels")

    def turn(self, size: tuple[int, int], orientation: int) -> "Region":
        """A region that `fit` the stored pixels (W, H), in the image as shown: EXIF orientations that swap W and H."""
        mask = self.mask and masks.turn(self.mask, orientation)
        return self._replace(box=turn_box(self.box, size, orientation), mask=mask)

    def _in_pixels(self, size: tuple[int, int]) -> Box:
        x1, y1, x2, y2 = box = box_of_xyxy(self.box)
        if self.space == "pixels":
            return box
        return x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]


def coverage_of_box(cells: VisualCells, box: Sequence[float]) -> np.ndarray:
    """Share of each cell that a box (xyxy, pixels of the original image) covers, analytically.

    `(N,)` float64 in [0, 1]; 0 for tokens that see no pixel (separators, padding).
    """
    x1, y1, x2, y2 = box
    left, top, right, bottom = cells.footprints.T
    overlap_x = np.minimum(right, x2) - np.maximum(left, x1)
    overlap_y = np.minimum(bottom, y2) - np.maximum(top, y1)
    overlap = np.clip(overlap_x, 0, None) * np.clip(overlap_y, 0, None)
    return np.nan_to_num(overlap / ((right - left) * (bottom - top)))


def coverage_of_mask(cells: VisualCells, mask: np.ndarray) -> np.ndarray:
    """Share of each cell that a mask covers, exact also for cell borders that cut through pixels.

    The integral of a mask that is constant within each pixel is bilinear between pixel corners, so interpolating the
    integral image bilinearly gives the covered area of any rectangle without error.

    `mask` is `(H, W)` bool of the image's size, True on the region, which is not empty. For the result see
    `coverage_of_box`.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x1, y1, x2, y2 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    width, height = x2 - x1, y2 - y1  # of the box around the mask: only there is something to integrate
    integral = np.zeros((height + 1, width + 1))
    integral[1:, 1:] = mask[y1:y2, x1:x2].cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    footprints = np.nan_to_num(cells.footprints)
    cell_area = (footprints[:, 2] - footprints[:, 0]) * (footprints[:, 3] - footprints[:, 1])
    left, right = np.clip(footprints[:, ::2].T - x1, 0, width)
    top, bottom = np.clip(footprints[:, 1::2].T - y1, 0, height)

    def area(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Masked area of the rectangle from the corner of the box to (x, y)."""
        column = np.clip(np.floor(x).astype(np.int64), 0, width - 1)
        row = np.clip(np.floor(y).astype(np.int64), 0, height - 1)
        u, v = x - column, y - row
        upper = integral[row, column] * (1 - u) + integral[row, column + 1] * u
        lower = integral[row + 1, column] * (1 - u) + integral[row + 1, column + 1] * u
        return upper * (1 - v) + lower * v

    covered = area(right, bottom) - area(left, bottom) - area(right, top) + area(left, top)
    share = np.divide(covered, cell_area, out=np.zeros_like(covered), where=cell_area > 0)
    return np.clip(share, 0.0, 1.0)


def region_tokens(
    cells: VisualCells | Sequence[VisualCells],
    regions: Sequence[Region | Mapping[str, Any] | Sequence[float] | np.ndarray],
    threshold: float | None = None,
    soft: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Visual tokens of the union of the regions, with their weights.

    A region's tokens are the cells of which it covers at least `threshold`. If none does (an object smaller than a
    cell), it is the one cell with the largest overlap. Over regions, a token's weight is the largest of
    region weight x coverage, so overlapping boxes are never counted twice.

    Defaults. `soft`: the weight is the coverage, so the weights sum to the region's area in cells and the weighted
    mean of attention is the mean over the region's area, also for an object that fills a fraction of its cell; a cell
    that is only touched hardly counts. The threshold (0.05) merely drops slivers that resampling blurs anyway.
    Hard (`soft=False`): a token belongs to the region if at least half covered (0.5), the usual set rule, and counts
    fully; without it a rim of touched cells would double the area of a typical (15-cell) region.

    Args:
        cells: of one image, or one entry per image of the sample (token indices then count on over the images).
        regions: see `Region.of`.
        threshold: least share of a cell; None takes 0.05 when soft and 0.5 when hard, 0 every cell that is touched.
        soft: weights are coverage (True) or 1 (False).

    Returns:
        tokens: `(K,)` int64, sorted indices into the sample's visual tokens.
        weights: `(K,)` float32, all positive.

    Raises:
        ValueError: no region, or a region of an image or with a weight that cannot be.
        RegionError: a bad region (see `Region.fit`), or region_unseen_by_processor (cut off by a centre crop).
    """
    images = [cells] if isinstance(cells, VisualCells) else list(cells)
    if not len(regions):
        raise ValueError("no region given; a sample without regions has no region tokens")
    starts = np.cumsum([0] + [len(image) for image in images])
    weights = np.zeros(starts[-1])
    for region in map(Region.of, regions):
        if not 0 <= region.image < len(images):
            detail = f"region of image {region.image}, but the sample has {len(images)} image(s)"
            raise RegionError("unknown_image", detail)
        if not 0 < region.weight < np.inf:
            raise ValueError(f"region weight {region.weight} must be positive")
        cover = _cover if isinstance(region.mask, str | masks.Rle | None) else _cover.__wrapped__
        place = Region(region.box, mask=region.mask, space=region.space)  # all that decides on the cells
        tokens, shares = cover(images[region.image], place, threshold, soft)
        at = starts[region.image] + tokens
        weights[at] = np.maximum(weights[at], region.weight * shares)
    tokens = np.flatnonzero(weights)
    return tokens, weights[tokens].astype(np.float32)


@lru_cache(maxsize=512)  # questions about one image share its regions, and drawing a mask is slow
def _cover(cells: VisualCells, region: Region, threshold: float | None, soft: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cells of one region of one image, `(K,)` int64, and their shares, `(K,)` float32."""
    region = region.fit(cells.image_size)
    if region.mask is None:
        coverage = coverage_of_box(cells, region.box)
    else:
        coverage = coverage_of_mask(cells, masks.decode(region.mask))
    if not coverage.any():
        raise RegionError(
            "region_unseen_by_processor",
            f"no visual token sees the region {[*region.box]} of the {cells.image_size[0]} x {cells.image_size[1]} "
            "image (cut off by the centre crop?): drop the sample, or pad instead of cropping",
        )
    if threshold is None:
        threshold = SOFT_THRESHOLD if soft else HARD_THRESHOLD
    tokens = np.flatnonzero(coverage >= max(threshold, _LEAST))
    if not len(tokens):
        tokens = np.array([coverage.argmax()])
    return tokens, (coverage[tokens] if soft else np.ones(len(tokens))).astype(np.float32)
