"""Writes the toy world as COCO instances files for the images of the GQA files.

All of COCO's segmentation formats occur: discs are polygons, small frames (rings, which polygons cannot express) are
compressed RLE, large frames are uncompressed RLE, and a cluster of dots is one annotation with `iscrowd` 1.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sayo.toyworld.gqa_files import split_scenes
from sayo.toyworld.scenes import COLORS, SIDE, Box, Scene, frame_mask

DOT_CATEGORY = 90
POLYGON_POINTS = 24

# Frames have odd ids from 1, discs odd ids from 31, dots 90: with gaps, as in COCO.
CATEGORIES = {
    **{f"{color} frame": 1 + 2 * i for i, color in enumerate(COLORS)},
    **{f"{color} disc": 31 + 2 * i for i, color in enumerate(COLORS)},
    "dot": DOT_CATEGORY,
}


def write_coco(out: Path, num_images: int, seed: int) -> None:
    """Writes `annotations/instances_{split}.json` to `out`, with the image ids and files of `write_gqa`."""
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for split, scenes in split_scenes(num_images, seed).items():
        content = {
            "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
            "images": [
                {"license": 1, "file_name": f"{i}.png", "height": SIDE, "width": SIDE, "id": i} for i, _ in scenes
            ],
            "annotations": [
                {**annotation, "image_id": i, "id": i * 100 + k}
                for i, scene in scenes
                for k, annotation in enumerate(_annotations(scene))
            ],
            "categories": [
                {"supercategory": "clutter" if name == "dot" else name.split()[1], "id": i, "name": name}
                for name, i in CATEGORIES.items()
            ],
        }
        (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _annotations(scene: Scene) -> Iterator[dict[str, Any]]:
    for item in scene.objects:
        yield _from_mask(frame_mask(item), f"{item.frame} frame", compressed=not item.large)
        polygon, area = _polygon(item.disc_box)
        x1, y1, x2, y2 = map(float, item.disc_box)
        yield _annotation(polygon, area, [x1, y1, x2 - x1, y2 - y1], f"{item.disc} disc")
    if scene.dots:
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        for x1, y1, x2, y2 in scene.dots:
            mask[y1:y2, x1:x2] = True
        yield _from_mask(mask, "dot", iscrowd=1)


def _from_mask(mask: np.ndarray, category: str, compressed: bool = False, iscrowd: int = 0) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    area, bbox = int(coco_mask.area(encoded)), coco_mask.toBbox(encoded).tolist()
    rle = {**encoded, "counts": encoded["counts"].decode("ascii")} if compressed else uncompressed_rle(mask)
    return _annotation(rle, area, bbox, category, iscrowd)


def _annotation(outline: list | dict, area: float, bbox: list[float], category: str, iscrowd: int = 0) -> dict:
    number = CATEGORIES[category]
    return {"segmentation": outline, "area": area, "iscrowd": iscrowd, "bbox": bbox, "category_id": number}


def _polygon(box: Box) -> tuple[list[list[float]], float]:
    """The regular polygon with 24 corners inscribed in the disc of a box, and its area."""
    x1, y1, x2, y2 = box
    angles = 2 * np.pi * np.arange(POLYGON_POINTS) / POLYGON_POINTS
    radius = (x2 - x1) / 2
    points = np.stack([(x1 + x2) / 2 + radius * np.cos(angles), (y1 + y2) / 2 + radius * np.sin(angles)], axis=1)
    area = POLYGON_POINTS / 2 * radius**2 * np.sin(2 * np.pi / POLYGON_POINTS)
    return [points.round(2).ravel().tolist()], round(float(area), 2)


def uncompressed_rle(mask: np.ndarray) -> dict[str, Any]:
    """`(H, W)` bool -> `{"counts": runs, "size": [H, W]}`: column-major runs that start with zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], edges, [flat.size])))
    counts = [0, *runs.tolist()] if flat[0] else runs.tolist()
    return {"counts": counts, "size": list(mask.shape)}
