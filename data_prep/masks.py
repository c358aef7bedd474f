"""Masks as compressed COCO run lengths, from polygons and both run-length forms, with hostile values kept out.

pycocotools trusts its input: run lengths that do not fill the picture leave uninitialised memory in the mask, and a
polygon with far-away corners makes it allocate as much as the outline is long. So both are checked before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from data_prep.examples import Box, RejectedError
from data_prep.fields import is_integer, numbers
from sayo.geometry.regions import check_runs

_FAR = 1e9  # pixels


class Drawn(NamedTuple):
    """What `encode` made: run lengths, and the (W, H) of the picture that they fill. No file spells this."""

    counts: str
    size: tuple[int, int]


def encode(segmentation: Any, size: tuple[int, int]) -> str:
    """Compressed run lengths (the `counts` string) of a COCO `segmentation` over a picture of `size` (W, H) pixels.

    Args:
        segmentation: polygons `[[x1, y1, x2, y2, ...], ...]` (united), `{"size": [H, W], "counts": list or str}`, or
            what was encoded before.

    Raises:
        RejectedError: bad_mask, mask_size_differs, mask_outside_image or empty_mask.
    """
    width, height = size
    if isinstance(segmentation, Drawn) and segmentation.size == size:
        return segmentation.counts
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise RejectedError("decompression_bomb", f"a mask of {width}x{height} pixels")
    if isinstance(segmentation, dict):
        encoded = _checked_runs(segmentation, width, height)
    else:
        polygons, _ = _checked_polygons(segmentation, width, height)
        drawn = coco.frPyObjects(polygons, height, width)
        encoded = coco.merge(drawn) if len(drawn) > 1 else drawn[0]
    if coco.area(encoded) == 0:
        raise RejectedError("empty_mask", f"the mask covers no pixel of the {width}x{height} picture")
    return encoded["counts"].decode("ascii")


def extent(segmentation: Any, size: tuple[int, int]) -> Box:
    """The xyxy box around a COCO `segmentation`; polygons are checked but not drawn, which is much faster.

    Raises:
        RejectedError: as for `encode`.
    """
    if isinstance(segmentation, dict):
        return box_of(encode(segmentation, size), size)
    _, (x1, y1, x2, y2) = _checked_polygons(segmentation, *size)
    return float(max(x1, 0)), float(max(y1, 0)), float(min(x2, size[0])), float(min(y2, size[1]))


def encode_pixels(mask: np.ndarray) -> dict[str, Any]:
    """An `(H, W)` bool mask as a COCO run-length dict with compressed `counts`."""
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def box_of(rle: str, size: tuple[int, int]) -> Box:
    """The xyxy box, in whole pixels, around the mask of `encode`."""
    x, y, w, h = (float(value) for value in coco.toBbox({"size": [size[1], size[0]], "counts": rle.encode()}))
    return x, y, x + w, y + h


def agree(box: Box, mask_box: Box) -> bool:
    """True if the annotated box is, within drawing accuracy, the box around the mask.

    Real annotations differ by less than two pixels; xyxy taken for xywh (or the other way round) differs by far more.
    """
    x1, y1, x2, y2 = mask_box
    room = 3 + 0.03 * max(x2 - x1, y2 - y1)
    return (
        abs(box[0] - x1) <= room and abs(box[1] - y1) <= room and abs(box[2] - x2) <= room and abs(box[3] - y2) <= room
    )


def orient(rle: str, stored_size: tuple[int, int], orientation: int) -> str:
    """Turn a mask drawn on the stored pixels into the shown picture (only the orientations that swap W and H)."""
    mask = coco.decode({"size": [stored_size[1], stored_size[0]], "counts": rle.encode()})
    turned = {5: mask.T, 6: np.rot90(mask, -1), 7: np.rot90(mask, 2).T, 8: np.rot90(mask)}[orientation]
    return encode_pixels(turned)["counts"]


def _checked_polygons(polygons: Any, width: int, height: int) -> tuple[list[Sequence[float]], Box]:
    """(the polygons as numbers, the xyxy box around them, which may leave the picture)."""
    if not isinstance(polygons, list) or not polygons or not all(isinstance(entry, list) for entry in polygons):
        raise RejectedError("bad_mask", f"segmentation is {str(polygons)[:200]}, expected a list of polygons")
    checked, low, high = [], (math.inf, math.inf), (-math.inf, -math.inf)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise RejectedError("bad_mask", f"a polygon needs at least three points x, y; found {str(polygon)[:200]}")
        points = numbers(polygon)
        x, y = points[::2], points[1::2]
        first, last = (min(x), min(y)), (max(x), max(y))
        near = -_FAR < first[0] and -_FAR < first[1] and last[0] < _FAR and last[1] < _FAR
        if not near or math.isnan(sum(points)):  # min and max overlook a NaN that does not come first
            raise RejectedError("bad_mask", f"a polygon holds what is no number: {str(polygon)[:200]}")
        for start, end, side in zip(first, last, (width, height), strict=True):
            if start < -side or end > 2 * side:
                raise RejectedError("mask_outside_image", f"a polygon goes from {start} to {end} in a side of {side}")
        low, high = (min(low[0], first[0]), min(low[1], first[1])), (max(high[0], last[0]), max(high[1], last[1]))
        checked.append(points)
    return checked, (*low, *high)


def _checked_runs(segmentation: dict, width: int, height: int) -> dict[str, Any]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise RejectedError(
            "mask_size_differs", f"run lengths of size {str(size)[:50]}, the picture is {[height, width]}"
        )
    if not isinstance(counts, str) and not (isinstance(counts, list) and all(is_integer(run) for run in counts)):
        raise RejectedError("bad_mask", f"counts are {str(counts)[:100]}, expected run lengths")
    try:
        check_runs(counts, width, height)
    except ValueError as error:
        raise RejectedError("bad_mask", str(error)) from None
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode()}
    return coco.frPyObjects({"size": size, "counts": counts}, height, width)
