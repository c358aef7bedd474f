"""Regions of an image (boxes, polygons, RLE masks) as coverage of its visual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from sayo.geometry.cells import VisualCells

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2, origin at the top left corner; in pixels of the original image unless a `space` says otherwise."""

Space = Literal["pixels", "normalised", "padded_square"]
"""What box coordinates count: pixels; shares of width and height; or shares of the square that the image was padded to
(both sides evenly, as in Visual-CoT's conversations)."""

SOFT_THRESHOLD = 0.05
HARD_THRESHOLD = 0.5
_LEAST = 1e-6  # share of a cell: less is the rounding error of a mask's coverage


class Region(NamedTuple):
    """One place in one image that matters for the answer.

    Attributes:
        box: xyxy in `space`; may leave the image, it is clipped to it. None: the mask's own box.
        role: `"answer"` (the object that is or carries the answer) or `"evidence"` (needed to find or compare it).
        weight: 0..1, how much a visual token that the region covers counts.
        label: the object's name.
        image: index of the image within the sample.
        mask: COCO `segmentation` (polygons, or a run-length dict with `size` and `counts`), or None where only the box
            is known.
        space: what the coordinates of `box` count.
    """

    box: Box | None = None
    role: Literal["answer", "evidence"] = "answer"
    weight: float = 1.0
    label: str = ""
    image: int = 0
    mask: Any = None
    space: Space = "pixels"


def check_box(box: Sequence[float], image_size: tuple[int, int]) -> np.ndarray:
    """The box clipped to the image: `(4,)` float64 xyxy in pixels.

    Raises:
        ValueError: not four numbers, NaN or infinite, reversed or without area, or completely outside of the image.
    """
    width, height = image_size
    array = np.asarray(box, dtype=np.float64)
    if array.shape != (4,):
        raise ValueError(f"a box is four numbers [x1, y1, x2, y2] in pixels, got shape {array.shape}: {box}")
    numbers = [float(value) for value in array]
    if not np.isfinite(array).all():
        raise ValueError(f"box {numbers} holds NaN or infinity; repair or drop this region")
    x1, y1, x2, y2 = numbers
    if x2 <= x1 or y2 <= y1:
        raise ValueError(
            f"box {numbers} is reversed or has no area; boxes are [x1, y1, x2, y2] with x1 < x2 and y1 < y2 "
            "(was it [x, y, width, height]?)"
        )
    clipped = np.array([max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)])
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise ValueError(
            f"box {numbers} lies outside of the {width} x {height} image; was it measured at another size or before "
            "EXIF rotation?"
        )
    return clipped


def coverage_of_box(cells: VisualCells, box: Sequence[float]) -> np.ndarray:
    """Share of each cell that the box covers, analytically.

    Args:
        cells: the visual tokens of the image.
        box: xyxy in pixels of the original image; the part outside of the image is cut off.

    Returns:
        `(N,)` float64 in [0, 1]; 0 for tokens that see no pixel (separators, padding).

    Raises:
        ValueError: see `check_box`.
    """
    x1, y1, x2, y2 = check_box(box, cells.image_size)
    left, top, right, bottom = cells.footprints.T
    overlap_x = np.minimum(right, x2) - np.maximum(left, x1)
    overlap_y = np.minimum(bottom, y2) - np.maximum(top, y1)
    overlap = np.clip(overlap_x, 0, None) * np.clip(overlap_y, 0, None)
    return np.nan_to_num(overlap / ((right - left) * (bottom - top)))


def coverage_of_mask(cells: VisualCells, mask: np.ndarray) -> np.ndarray:
    """Share of each cell that the mask covers, exact also for cell borders that cut through pixels.

    The integral of a mask that is constant within each pixel is bilinear between pixel corners, so interpolating the
    integral image bilinearly gives the covered area of any rectangle without error.

    Args:
        cells: the visual tokens of the image.
        mask: `(H, W)` bool (or 0/1), True on the region.

    Returns:
        `(N,)` float64 in [0, 1]; 0 for tokens that see no pixel (separators, padding).

    Raises:
        ValueError: the mask has another size than the image, or is empty.
    """
    width, height = cells.image_size
    mask = np.asarray(mask).astype(bool)
    if mask.shape != (height, width):
        raise ValueError(
            f"mask of shape {mask.shape} for an image of {width} x {height} (W x H): expected (H, W) = "
            f"({height}, {width}); resize or rotate the mask with its image"
        )
    if not mask.any():
        raise ValueError(f"the mask of a {width} x {height} image is empty; drop this region")
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


def mask_of_rle(rle: str | Mapping[str, Any], width: int, height: int) -> np.ndarray:
    """`(H, W)` bool mask of a COCO run-length encoding.

    Args:
        rle: the compressed `counts` string (its size is that of the image) or a dict of `size` [H, W] and
            `counts` (str, or list when uncompressed).
        width, height: size of the image in pixels.

    Raises:
        ValueError: the encoding has another size than the image, or run lengths that do not fill it.
    """
    from pycocotools import mask as coco

    encoded = dict(rle) if isinstance(rle, Mapping) else {"size": [height, width], "counts": rle}
    if list(encoded["size"]) != [height, width]:
        raise ValueError(f"RLE of size {list(encoded['size'])} (H, W) for an image of height {height}, width {width}")
    check_runs(encoded["counts"], width, height)
    if isinstance(encoded["counts"], (list, tuple)):
        encoded = coco.frPyObjects(encoded, height, width)
    return coco.decode(encoded).astype(bool)


def check_runs(counts: str | bytes | Sequence[int], width: int, height: int) -> None:
    """Raise ValueError unless COCO run lengths (compressed or not) fill a picture of `width` x `height` pixels.

    pycocotools trusts its input: shorter runs leave uninitialised memory in the mask, longer ones write behind it.
    """
    if isinstance(counts, bytes):
        counts = counts.decode("latin1")
    runs = _runs_of_text(counts) if isinstance(counts, str) else list(counts)
    if any(not 0 <= run <= width * height for run in runs) or sum(runs) != width * height:
        raise ValueError(
            f"the run lengths do not fill the picture of {width}x{height} pixels (they add up to {sum(runs)}); "
            "repair or drop this mask"
        )


def _runs_of_text(counts: str) -> list[int]:
    """Run lengths of COCO's text form: five bits a character, lowest first, from the third on as differences."""
    if not counts.isascii():
        raise ValueError("the run lengths hold characters that do not belong there")
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("the run lengths are cut off or hold characters that do not belong there")
    last = (codes & 32) == 0
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    digits = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    if digits.max() > 6:
        raise ValueError("a run length is longer than any picture")
    values = np.add.reduceat((codes & 31) << (5 * digits), starts)
    ends = np.flatnonzero(last)
    values -= np.where(codes[ends] & 16, 1 << (5 * (digits[ends] + 1)), 0)
    runs = values.copy()
    # from the third run on, each is stored as the difference to the one two before: the odd chain includes run 1,
    # the even chain starts at run 2 (run 0 is not its base)
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs.tolist()


def mask_of_polygons(polygons: Sequence[Sequence[float]], width: int, height: int) -> np.ndarray:
    """`(H, W)` bool mask of the union of polygons `[x1, y1, x2, y2, ...]` in pixels (COCO `segmentation`).

    Raises:
        ValueError: no polygon, or one with fewer than three points.
    """
    from pycocotools import mask as coco

    if not len(polygons) or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError(f"polygons are lists [x1, y1, x2, y2, ...] of at least three points, got {polygons}")
    return coco.decode(coco.merge(coco.frPyObjects([list(p) for p in polygons], height, width))).astype(bool)


def coverage_of_region(cells: VisualCells, region: Mapping[str, Any] | Sequence[float] | np.ndarray) -> np.ndarray:
    """Share of each cell that a region covers, `(N,)` float64.

    Args:
        cells: the visual tokens of the image.
        region: a box xyxy; a `(H, W)` mask; or a mapping with `rle`, `polygons` or `box` (the first that is not None).
    """
    if not isinstance(region, Mapping):
        return coverage_of_mask(cells, region) if np.ndim(region) == 2 else coverage_of_box(cells, region)
    if region.get("rle") is not None:
        return coverage_of_mask(cells, mask_of_rle(region["rle"], *cells.image_size))
    if region.get("polygons") is not None:
        return coverage_of_mask(cells, mask_of_polygons(region["polygons"], *cells.image_size))
    if region.get("box") is None:
        raise ValueError(f"a region needs a box, rle or polygons; got the keys {sorted(region)}")
    return coverage_of_box(cells, region["box"])


def region_tokens(
    cells: VisualCells | Sequence[VisualCells],
    regions: Sequence[Mapping[str, Any] | Sequence[float] | np.ndarray],
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
        regions: boxes, masks or mappings as in `coverage_of_region`; a mapping may hold `weight` (default 1) and
            `image` (index into `cells`, default 0), as the rows of prepared data do.
        threshold: least share of a cell; None takes 0.05 when soft and 0.5 when hard, 0 every cell that is touched.
        soft: weights are coverage (True) or 1 (False).

    Returns:
        tokens: `(K,)` int64, sorted indices into the sample's visual tokens.
        weights: `(K,)` float32, all positive.

    Raises:
        ValueError: no region, a bad region, or one that touches no cell (cut off by a centre crop).
    """
    images = [cells] if isinstance(cells, VisualCells) else list(cells)
    if not len(regions):
        raise ValueError("no region given; a sample without regions has no target tokens")
    if threshold is None:
        threshold = SOFT_THRESHOLD if soft else HARD_THRESHOLD
    starts = np.cumsum([0] + [len(image) for image in images])
    weights = np.zeros(starts[-1])
    for region in regions:
        is_mapping = isinstance(region, Mapping)
        index = int(region.get("image") or 0) if is_mapping else 0
        weight = region.get("weight") if is_mapping else None
        weight = 1.0 if weight is None else float(weight)
        if not 0 <= index < len(images):
            raise ValueError(f"region of image {index}, but the sample has {len(images)} image(s)")
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"region weight {weight} must be positive")
        coverage = coverage_of_region(images[index], region)
        if not coverage.any():
            raise ValueError(
                f"no visual token sees the region {region if np.ndim(region) < 2 else 'mask'} of the "
                f"{images[index].image_size[0]} x {images[index].image_size[1]} image (cut off by the centre crop?): "
                "drop the sample, or pad instead of cropping"
            )
        chosen = coverage >= max(threshold, _LEAST)
        if not chosen.any():
            chosen = np.arange(len(coverage)) == coverage.argmax()
        view = weights[starts[index] : starts[index + 1]]
        np.maximum(view, weight * np.where(chosen, coverage if soft else 1.0, 0.0), out=view)
    tokens = np.flatnonzero(weights)
    return tokens, weights[tokens].astype(np.float32)
