"""Masks in every encoding mean the same pixels, and no hostile one reaches pycocotools."""

import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pycocotools import mask as coco

from sayo.geometry import Region, RegionError, masks

SIZE = (20, 12)
REFUSED = yaml.safe_load(Path(__file__).with_name("refused.yaml").read_text())


def runs_of(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths, column by column, starting with background."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    return [0, *runs] if flat[0] else runs


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.5, 0.98]))
def test_every_form_gives_the_mask_back(width: int, height: int, seed: int, density: float):
    mask = np.random.default_rng(seed).random((height, width)) < density
    mask[0, 0] |= not mask.any()
    compressed = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
    forms = [{"size": [height, width], "counts": counts} for counts in (runs_of(mask), compressed)]
    for form in (*forms, compressed, mask, masks.encode(mask, (width, height))):
        assert (masks.decode(masks.encode(form, (width, height))) == mask).all()


def test_polygons_are_united():
    squares = [[2, 2, 8, 2, 8, 6, 2, 6], [6, 4, 12, 4, 12, 10, 6, 10]]
    drawn = np.zeros((12, 20), bool)
    drawn[2:6, 2:8] = drawn[4:10, 6:12] = True
    rle = masks.encode(squares, SIZE)
    assert (masks.decode(rle) == drawn).all()
    assert rle.box == masks.extent(squares, SIZE) == (2, 2, 12, 10)


@pytest.mark.parametrize(("segmentation", "reason"), REFUSED["masks"])
def test_bad_masks_are_named(segmentation, reason: str):
    with pytest.raises(RegionError) as error:
        masks.encode(segmentation, SIZE)
    assert error.value.reason == reason


def test_a_mask_larger_than_any_picture_is_refused():
    with pytest.raises(RegionError, match="decompression_bomb"):
        masks.encode([[1, 1, 5, 1, 5, 5]], (10**6, 10**6))


@given(st.text(alphabet=[chr(code) for code in range(40, 120)], max_size=30))
def test_no_text_decodes_to_more_or_less_than_the_picture(counts: str):
    try:
        rle = masks.encode({"size": [12, 20], "counts": counts}, SIZE)
    except RegionError:
        return
    assert masks.decode(rle).shape == (12, 20)
    assert sum(runs_of(masks.decode(rle))) == 240


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_orientation_turns_mask_and_box_alike(orientation: int):
    mask = np.zeros((12, 20), bool)
    mask[2:5, 3:10] = mask[5:8, 3:4] = True
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(data, "PNG", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(data))) > 0
    turned = Region((3, 2, 10, 8), mask=mask).fit(SIZE).turn(SIZE, orientation)
    assert (masks.decode(turned.mask) == shown).all()
    assert turned.mask.size == (12, 20)
    assert turned.box == turned.mask.box
