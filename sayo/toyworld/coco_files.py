"""Writes the toy world as COCO instances files, over the same images as the GQA files (datasets.md, 2.1).

Every form of segmentation that COCO has occurs: discs are polygons, small frames (rings, which no polygon can tell
from filled squares) are compressed RLE, large frames are uncompressed RLE, and a cluster of dots is one annotation
with `iscrowd` 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sayo.toyworld.gqa_files import split_scenes
from sayo.toyworld.scenes import COLORS, Box, FramedDisc, Scene, frame_mask

DOT_CATEGORY = 90
POLYGON_POINTS = 24


def categories() -> list[dict[str, Any]]:
    """Frames have odd ids from 1, discs odd ids from 31, dots 90: with gaps, as in COCO."""
    frames = [{"supercategory": "frame", "id": 1 + 2 * i, "name": f"{color} frame"} for i, color in enumerate(COLORS)]
    discs = [{"supercategory": "disc", "id": 31 + 2 * i, "name": f"{color} disc"} for i, color in enumerate(COLORS)]
    return [*frames, *discs, {"supercategory": "clutter", "id": DOT_CATEGORY, "name": "dot"}]


def write_coco(out: Path, num_images: int, seed: int) -> None:
    """Writes `annotations/instances_{split}.json` below `out`; image ids and files are those of `write_gqa`."""
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for split, scenes in split_scenes(num_images, seed).items():
        images, annotations = [], []
        for image_id, scene in scenes:
            images.append(
                {
                    "license": 1,
                    "file_name": f"{image_id}.png",
                    "height": scene.height,
                    "width": scene.width,
                    "id": image_id,
                }
            )
            annotations += [
                {**annotation, "image_id": image_id, "id": image_id * 100 + k}
                for k, annotation in enumerate(_annotations(scene))
            ]
        content = {
            "info": {"description": "sayo toy world", "version": "1.0"},
            "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
            "images": images,
            "annotations": annotations,
            "categories": categories(),
        }
        (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _annotations(scene: Scene) -> list[dict[str, Any]]:
    ids = {category["name"]: category["id"] for category in categories()}
    out = []
    for item in scene.objects:
        out.append(_frame(item, scene, ids[f"{item.frame} frame"]))
        out.append(_disc(item, ids[f"{item.disc} disc"]))
    if scene.dots:
        mask = np.zeros((scene.height, scene.width), dtype=bool)
        for x1, y1, x2, y2 in scene.dots:
            mask[y1:y2, x1:x2] = True
        corners = np.array(scene.dots)
        box = (*corners[:, :2].min(0).tolist(), *corners[:, 2:].max(0).tolist())
        out.append(_annotation(uncompressed_rle(mask), int(mask.sum()), box, DOT_CATEGORY, iscrowd=1))
    return out


def _frame(item: FramedDisc, scene: Scene, category_id: int) -> dict[str, Any]:
    mask = frame_mask(item, scene.width, scene.height)
    if item.large:
        segmentation = uncompressed_rle(mask)
    else:
        encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        segmentation = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
    return _annotation(segmentation, int(mask.sum()), item.box, category_id)


def _disc(item: FramedDisc, category_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = item.disc_box
    angles = 2 * np.pi * np.arange(POLYGON_POINTS) / POLYGON_POINTS
    radius = (x2 - x1) / 2
    points = np.stack([(x1 + x2) / 2 + radius * np.cos(angles), (y1 + y2) / 2 + radius * np.sin(angles)], axis=1)
    area = POLYGON_POINTS / 2 * radius**2 * np.sin(2 * np.pi / POLYGON_POINTS)
    return _annotation([points.round(2).ravel().tolist()], round(float(area), 2), item.disc_box, category_id)


def _annotation(
    segmentation: list | dict, area: float, box: Box, category_id: int, iscrowd: int = 0
) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "segmentation": segmentation,
        "area": area,
        "iscrowd": iscrowd,
        "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
        "category_id": category_id,
    }


def uncompressed_rle(mask: np.ndarray) -> dict[str, Any]:
    """`(H, W)` bool -> `{"counts": runs, "size": [H, W]}`: column-major runs that start with zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], edges, [flat.size])))
    counts = [0, *runs.tolist()] if flat[0] else runs.tolist()
    return {"counts": counts, "size": list(mask.shape)}
