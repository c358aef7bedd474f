"""The toy world as COCO instances files, read by pycocotools."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sayo.toyworld.coco_files import DOT_CATEGORY, uncompressed_rle
from sayo.toyworld.scenes import COLORS, DOT_COLOR


@pytest.fixture(scope="module")
def coco(toy):
    return COCO(toy.world / "annotations" / "instances_train.json")


def test_every_form_of_segmentation_occurs(coco):
    forms = {
        (type(a["segmentation"]).__name__, type(a["segmentation"]["counts"]).__name__)
        if isinstance(a["segmentation"], dict)
        else ("list", "")
        for a in coco.anns.values()
    }
    assert forms == {("list", ""), ("dict", "str"), ("dict", "list")}
    assert {a["category_id"] for a in coco.anns.values() if a["iscrowd"]} == {DOT_CATEGORY}


def test_masks_cover_the_pixels_of_their_colour(toy, coco):
    for image in coco.imgs.values():
        pixels = np.asarray(Image.open(toy.world / "images" / image["file_name"]))
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask = coco.annToMask(annotation).astype(bool)
            assert mask.shape == pixels.shape[:2] == (image["height"], image["width"])
            name = coco.cats[annotation["category_id"]]["name"].split()[0]
            color = DOT_COLOR if name == "dot" else COLORS[name]
            inside = (pixels[mask] == color).all(axis=1).mean()
            # A polygon is rasterised a little differently from the disc; RLE is exact.
            assert inside > 0.85 if isinstance(annotation["segmentation"], list) else inside == 1
            assert abs(mask.sum() - annotation["area"]) <= 0.15 * annotation["area"]
            x, y, w, h = annotation["bbox"]
            assert 0 <= x and 0 <= y and x + w <= image["width"] and y + h <= image["height"]


def test_ids_are_unique_and_images_are_those_of_the_gqa_files(toy, coco):
    ids = coco.getCatIds()
    assert len(ids) == len(set(ids)) < max(ids) - min(ids) + 1  # with gaps, as in COCO
    for split in ("train", "val", "test"):
        graphs = json.loads((toy.world / f"{split}_sceneGraphs.json").read_text())
        content = json.loads((toy.world / "annotations" / f"instances_{split}.json").read_text())
        assert {str(image["id"]) for image in content["images"]} == graphs.keys()
        annotations = {annotation["id"] for annotation in content["annotations"]}
        assert len(content["annotations"]) == len(annotations) and min(annotations) > 0


@pytest.mark.parametrize("first", [False, True])
def test_uncompressed_rle_is_column_major_and_starts_with_zeros(first):
    mask = np.array([[first, True], [False, True]])
    assert uncompressed_rle(mask) == {"counts": [0, 1, 1, 2] if first else [2, 2], "size": [2, 2]}
