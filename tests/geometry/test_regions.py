"""Regions: checked and clipped to their image, their coverage of each cell, and their tokens."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sayo.geometry import Region, RegionError, VisualCells, coverage_of_box, coverage_of_mask, masks, region_tokens
from sayo.geometry.cells import single_grid

SIZE = (40, 20)
GRID = single_grid(*SIZE, columns=4, rows=2)  # cells of 10 x 10 pixels


def mask_of(*boxes, size=SIZE) -> np.ndarray:
    mask = np.zeros(size[::-1], dtype=bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


def two_views() -> VisualCells:
    """A 4 x 2 mosaic, a separator, then a one-cell thumbnail."""
    footprints = [GRID.footprints, np.full((1, 4), np.nan), single_grid(*SIZE, 1, 1).footprints]
    return VisualCells(np.concatenate(footprints), np.array([1] * 9 + [0]), SIZE)


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (Region((0, 0, math.nan, 5)), "nan_box"),
        (Region((0, 0, math.inf, 5)), "nan_box"),
        (Region((10, 0, 5, 5)), "reversed_box"),
        (Region((3, 3, 3, 8)), "zero_area_box"),
        (Region((40, 0, 60, 20)), "box_outside_image"),
        (Region((-9, -9, 0, 5)), "box_outside_image"),
        (Region((1, 2, 3)), "malformed_record"),
        (Region((2, 0, 3, 1), space="normalised"), "box_outside_image"),
        (Region(), "malformed_record"),
        (Region((0, 0, 5, 5), mask=mask_of((20, 0, 40, 20))), "box_and_mask_differ"),
        (Region((0, 0, 5, 5), mask=np.ones(SIZE, bool)), "mask_size_differs"),
        (Region(mask=mask_of()), "empty_mask"),
    ],
)
def test_bad_regions_are_named(region, reason):
    with pytest.raises(RegionError) as error:
        region.fit(SIZE)
    assert error.value.reason == reason
    with pytest.raises(ValueError, match=reason):
        region_tokens(GRID, [region])


def test_every_way_to_place_a_region_fits_the_image():
    assert Region((5, -30, 400, 15)).fit(SIZE).box == (5, 0, 40, 15)
    assert Region((0.25, 0.5, 1.2, 1), space="normalised").fit(SIZE) == Region((10, 10, 40, 20))
    fitted = Region(mask=[[5, 3, 21, 3, 21, 9, 5, 9]], label="cup", image=1).fit(SIZE)
    assert fitted.box == (5, 3, 21, 9)
    np.testing.assert_array_equal(masks.decode(fitted.mask), mask_of((5, 3, 21, 9)))
    assert fitted.fit(SIZE) == fitted  # what fits is left as it is
    row = fitted.row()
    assert row == {"image": 1, "box": [5, 3, 21, 9], "rle": fitted.mask.counts, "role": "answer", "weight": 1.0,
                   "label": "cup"}  # fmt: skip
    assert Region.of(row).fit(SIZE) == fitted


def test_coverage_of_a_box_by_hand():
    # x 5..20 covers half of column 0 and all of column 1; y 0..15 covers row 0 and half of row 1.
    np.testing.assert_allclose(coverage_of_box(GRID, [5, 0, 20, 15]), [0.5, 1, 0, 0, 0.25, 0.5, 0, 0])


boxes = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 1))
images = st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(1, 20), st.integers(1, 20))


def box_in(width, height, fractions):
    """An xyxy box inside of the image from four fractions (position, size)."""
    x, y, w, h = fractions
    x1, y1 = x * width * 0.99, y * height * 0.99
    return [x1, y1, x1 + w * (width - x1), y1 + h * (height - y1)]


@settings(max_examples=100, deadline=None)
@given(images, boxes, st.floats(0, 0.3))
def test_coverage_has_the_area_of_the_box_and_grows_with_it(image, fractions, margin):
    width, height, columns, rows = image
    cells = single_grid(width, height, columns, rows)
    x1, y1, x2, y2 = box_in(width, height, fractions)
    small = coverage_of_box(cells, [x1, y1, x2, y2])
    area = small.sum() * (width * height) / (columns * rows)
    assert area == pytest.approx((x2 - x1) * (y2 - y1), rel=1e-6, abs=1e-6)
    assert (coverage_of_box(cells, [x1 - margin * width, y1, x2, y2 + margin * height]) >= small).all()
    tokens, weights = region_tokens(cells, [[0, 0, width, height]])
    np.testing.assert_array_equal(tokens, np.arange(columns * rows))
    np.testing.assert_array_equal(weights, np.ones(columns * rows, dtype=np.float32))


@settings(max_examples=50, deadline=None)
@given(images, st.integers(0, 2**32 - 1))
def test_mask_coverage_is_the_mean_over_the_cell(image, seed):
    """Against a supersampled mask on which every cell border falls on a sample border."""
    width, height, columns, rows = (min(side, 40) for side in image)
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    mask[0, 0] = True
    fine = np.repeat(np.repeat(mask, rows, axis=0), columns, axis=1)  # every pixel -> rows x columns samples
    expected = fine.reshape(rows, height, columns, width).mean(axis=(1, 3)).ravel()
    np.testing.assert_allclose(coverage_of_mask(single_grid(width, height, columns, rows), mask), expected, atol=1e-9)


@pytest.mark.parametrize("soft", [True, False])
def test_threshold_0_takes_every_cell_that_a_mask_touches_and_no_other(soft: bool):
    """Cells of 5.7 x 2.9 pixels: in some that the mask does not touch, the rounded shares add up to 5e-17."""
    cells = single_grid(*SIZE, columns=7, rows=7)
    parts = (6, 1, 9, 4), (4, 12, 7, 15)
    overlaps = sum(coverage_of_box(cells, part) for part in parts)
    tokens, weights = region_tokens(cells, [mask_of(*parts)], threshold=0, soft=soft)
    np.testing.assert_array_equal(tokens, np.flatnonzero(overlaps))
    np.testing.assert_allclose(weights, overlaps[tokens] if soft else 1.0, rtol=1e-6)


def test_the_union_takes_the_largest_weight_and_never_counts_twice():
    regions = [Region((0, 0, 10, 10), "evidence", 0.5), {"box": [0, 0, 20, 5], "weight": 0.8, "rle": None}]
    tokens, weights = region_tokens(GRID, regions)
    np.testing.assert_array_equal(tokens, [0, 1])
    np.testing.assert_allclose(weights, [0.5, 0.4])  # cell 0: max(0.5 * 1, 0.8 * 0.5)


def test_tokens_of_a_second_image_count_on():
    tokens, _ = region_tokens([GRID, GRID], [{"box": [0, 0, 10, 10], "image": 1}, {"box": [30, 10, 40, 20]}])
    np.testing.assert_array_equal(tokens, [7, 8])
    with pytest.raises(ValueError, match="image 2"):
        region_tokens([GRID, GRID], [{"box": [0, 0, 10, 10], "image": 2}])


def test_an_object_is_found_in_every_view_and_never_in_a_separator():
    for region in ([0, 0, 10, 10], mask_of((0, 0, 10, 10))):
        tokens, weights = region_tokens(two_views(), [region])
        np.testing.assert_array_equal(tokens, [0, 9])
        np.testing.assert_allclose(weights, [1, 0.125])


def test_unseen_regions_no_region_and_weights_without_meaning_are_errors():
    centre = VisualCells(GRID.footprints[1:3], np.zeros(2, dtype=np.int64), SIZE)
    for cells, regions, message in (
        (centre, [[0, 0, 5, 5]], "no visual token sees"),
        (GRID, [], "no region"),
        (GRID, [{"box": [0, 0, 5, 5], "weight": 0.0}], "weight"),
        (GRID, [{"label": "cat"}], "a box or a mask"),
    ):
        with pytest.raises(ValueError, match=message):
            region_tokens(cells, regions)
