"""Masks as compressed COCO run lengths, from polygons, both run-length forms and pixels, with hostile values kept out.

pycocotools trusts its input: run lengths that do not fill the picture leave uninitialised memory in the mask or write
behind it, and a polygon with far-away corners makes it allocate as much as the outline is long. So both are checked
before.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from sayo.geometry.boxes import Box, RegionError, is_integer, numbers

_FAR = 1e9  # pixels
_MOST_PIXELS = 89_478_485  # Pillow's limit for pictures (a decompression bomb)


class Rle(NamedTuple):
    """A checked mask: compressed run lengths, the (W, H) of the picture, and the box (xyxy) around the mask."""

    counts: str
    size: tuple[int, int]
    box: Box


@cache
def _coco() -> Any:
    """`pycocotools.mask`, loaded with the first mask: most users of the geometry have boxes only."""
    from pycocotools import mask

    return mask


def encode(segmentation: Any, size: tuple[int, int]) -> Rle:
    """The mask that covers a picture of `size` (W, H) pixels.

    Args:
        segmentation: polygons `[[x1, y1, x2, y2, ...], ...]` (united), `{"size": [H, W], "counts": list or str}`, the
            compressed string alone, an `(H, W)` bool array, or an `Rle`.

    Raises:
        RegionError: bad_mask, mask_size_differs, mask_outside_image, empty_mask or decompression_bomb.
    """
    width, height = size
    if isinstance(segmentation, Rle) and segmentation.size == size:
        return segmentation
    if width * height > _MOST_PIXELS:
        raise RegionError("decompression_bomb", f"a mask of {width}x{height} pixels")
    if isinstance(segmentation, np.ndarray):
        if segmentation.shape != (height, width):
            raise RegionError("mask_size_differs", f"mask of shape {segmentation.shape}, expected {(height, width)}")
        segmentation = encode_pixels(segmentation)
    if isinstance(segmentation, str):
        segmentation = {"size": [height, width], "counts": segmentation}
    if isinstance(segmentation, dict):
        encoded = _checked_runs(segmentation, width, height)
    else:
        polygons, _ = _checked_polygons(segmentation, width, height)
        drawn = _coco().frPyObjects(polygons, height, width)
        encoded = _coco().merge(drawn) if len(drawn) > 1 else drawn[0]
    if _coco().area(encoded) == 0:
        raise RegionError("empty_mask", f"the mask covers no pixel of the {width}x{height} picture")
    x, y, w, h = _coco().toBbox(encoded).tolist()
    return Rle(encoded["counts"].decode("ascii"), size, (x, y, x + w, y + h))


def encode_pixels(mask: np.ndarray) -> dict[str, Any]:
    """An `(H, W)` bool mask as a COCO run-length dict with compressed `counts`."""
    encoded = _coco().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def decode(rle: Rle) -> np.ndarray:
    """The `(H, W)` bool mask of `encode`."""
    return _coco().decode({"size": rle.size[::-1], "counts": rle.counts.encode()}).astype(bool)


def extent(segmentation: Any, size: tuple[int, int]) -> Box:
    """The xyxy box around a COCO `segmentation`; raises as `encode`.

    Polygons are checked but not drawn, which is much faster.
    """
    if isinstance(segmentation, dict):
        return encode(segmentation, size).box
    _, (x1, y1, x2, y2) = _checked_polygons(segmentation, *size)
    return float(max(x1, 0)), float(max(y1, 0)), float(min(x2, size[0])), float(min(y2, size[1]))


def agree(box: Box, mask_box: Box) -> bool:
    """True if the annotated box is, within drawing accuracy, the box around the mask.

    Real annotations differ by less than two pixels; xyxy taken for xywh (or the other way round) differs by far more.
    """
    room = 3 + 0.03 * max(mask_box[2] - mask_box[0], mask_box[3] - mask_box[1])
    return all(abs(a - b) <= room for a, b in zip(box, mask_box, strict=True))


def turn(rle: Rle, orientation: int) -> Rle:
    """Turn a mask on the stored pixels into the shown image, for EXIF orientations that swap W and H."""
    mask = decode(rle)
    turned = {5: mask.T, 6: np.rot90(mask, -1), 7: np.rot90(mask, 2).T, 8: np.rot90(mask)}[orientation]
    return encode(turned, rle.size[::-1])


def _checked_polygons(polygons: Any, width: int, height: int) -> tuple[list[Sequence[float]], Box]:
    """(the polygons as numbers, the xyxy box around them, which may leave the picture)."""
    if not isinstance(polygons, list) or not polygons or not all(isinstance(entry, list) for entry in polygons):
        raise RegionError("bad_mask", f"segmentation is {str(polygons)[:200]}, expected a list of polygons")
    checked, low, high = [], (math.inf, math.inf), (-math.inf, -math.inf)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise RegionError("bad_mask", f"a polygon needs at least three points x, y; got {str(polygon)[:200]}")
        points = numbers(polygon)
        x, y = points[::2], points[1::2]
        first, last = (min(x), min(y)), (max(x), max(y))
        near = -_FAR < first[0] and -_FAR < first[1] and last[0] < _FAR and last[1] < _FAR
        if not near or math.isnan(sum(points)):  # min and max overlook a NaN that does not come first
            raise RegionError("bad_mask", f"a polygon holds values that are not numbers: {str(polygon)[:200]}")
        for start, end, side in zip(first, last, (width, height), strict=True):
            if start < -side or end > 2 * side:
                raise RegionError("mask_outside_image", f"a polygon goes from {start} to {end} in a side of {side}")
        low, high = (min(low[0], first[0]), min(low[1], first[1])), (max(high[0], last[0]), max(high[1], last[1]))
        checked.append(points)
    return checked, (*low, *high)


def _checked_runs(segmentation: dict, width: int, height: int) -> dict[str, Any]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise RegionError(
            "mask_size_differs", f"run lengths of size {str(size)[:50]}, the picture is {[height, width]}"
        )
    if isinstance(counts, str):
        runs = _runs_of_text(counts)
    elif isinstance(counts, list) and all(is_integer(run) for run in counts):
        runs = counts
    else:
        raise RegionError("bad_mask", f"counts are {str(counts)[:100]}, expected run lengths")
    if any(not 0 <= run <= width * height for run in runs) or sum(runs) != width * height:
        raise RegionError("bad_mask", f"the run lengths add up to {sum(runs)} of the {width}x{height} pixels")
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode()}
    return _coco().frPyObjects({"size": size, "counts": counts}, height, width)


def _runs_of_text(counts: str) -> list[int]:
    """Run lengths of COCO's text form: five bits a character, lowest first, from the third on as differences."""
    codes = np.frombuffer(counts.encode(errors="replace"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise RegionError("bad_mask", "the run lengths are cut off or hold characters that do not belong there")
    last = (codes & 32) == 0
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    digits = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    if digits.max() > 6:
        raise RegionError("bad_mask", "a run length is longer than any picture")
    values = np.add.reduceat((codes & 31) << (5 * digits), starts)
    ends = np.flatnonzero(last)
    values -= np.where(codes[ends] & 16, 1 << (5 * (digits[ends] + 1)), 0)
    runs = values.copy()
    # from the third run on, each is stored as the difference to the one two before: the odd chain includes run 1,
    # the even chain starts at run 2 (run 0 is not its base)
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs.tolist()
