"""Boxes, masks and polygons -> coverage of each cell and tokens of a region."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sayo.geometry import (
    VisualCells,
    cells_from_count,
    coverage_of_box,
    coverage_of_mask,
    coverage_of_region,
    mask_of_polygons,
    mask_of_rle,
    region_tokens,
)
from sayo.geometry.cells import single_grid

GRID = single_grid(40, 20, columns=4, rows=2)  # cells of 10 x 10 pixels


def two_views(width: int = 40, height: int = 20) -> VisualCells:
    """A 4 x 2 mosaic, a separator, then a one-cell thumbnail."""
    mosaic, whole = single_grid(width, height, 4, 2).footprints, single_grid(width, height, 1, 1).footprints
    footprints = np.concatenate([mosaic, np.full((1, 4), np.nan), whole])
    return VisualCells(footprints, np.array([1] * 9 + [0]), (width, height))


def test_coverage_of_a_box_by_hand():
    # x 5..20 covers half of column 0 and all of column 1; y 0..15 covers row 0 and half of row 1.
    expected = [0.5, 1, 0, 0, 0.25, 0.5, 0, 0]
    np.testing.assert_allclose(coverage_of_box(GRID, [5, 0, 20, 15]), expected)


def test_a_box_that_leaves_the_image_is_clipped():
    inside = coverage_of_box(GRID, [5, 0, 40, 15])
    np.testing.assert_array_equal(coverage_of_box(GRID, [5, -30, 400, 15]), inside)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0, 0, float("nan"), 5], "NaN"),
        ([0, 0, float("inf"), 5], "infinity"),
        ([10, 0, 5, 5], "reversed"),
        ([3, 3, 3, 8], "no area"),
        ([40, 0, 60, 20], "outside"),
        ([-9, -9, 0, 5], "outside"),
        ([1, 2, 3], "four numbers"),
    ],
)
def test_bad_boxes_are_named(box, message):
    with pytest.raises(ValueError, match=message):
        coverage_of_box(GRID, box)


boxes = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 1))
images = st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(1, 20), st.integers(1, 20))


def box_in(width, height, fractions):
    """An xyxy box inside of the image from four fractions (position, size)."""
    x, y, w, h = fractions
    x1, y1 = x * width * 0.99, y * height * 0.99
    return [x1, y1, x1 + w * (width - x1), y1 + h * (height - y1)]


@settings(max_examples=100, deadline=None)
@given(images, boxes)
def test_covered_area_is_the_area_of_the_box(image, fractions):
    width, height, columns, rows = image
    cells = single_grid(width, height, columns, rows)
    box = box_in(width, height, fractions)
    area = coverage_of_box(cells, box).sum() * (width * height) / (columns * rows)
    assert area == pytest.approx((box[2] - box[0]) * (box[3] - box[1]), rel=1e-6, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(images, boxes, st.floats(0, 0.3))
def test_a_larger_box_covers_at_least_as_much_of_every_cell(image, fractions, margin):
    width, height, columns, rows = image
    cells = single_grid(width, height, columns, rows)
    x1, y1, x2, y2 = box_in(width, height, fractions)
    small = coverage_of_box(cells, [x1, y1, x2, y2])
    large = coverage_of_box(cells, [x1 - margin * width, y1, x2, y2 + margin * height])
    assert (large >= small).all()


@settings(max_examples=100, deadline=None)
@given(images)
def test_the_full_image_selects_every_cell_fully(image):
    width, height, columns, rows = image
    cells = single_grid(width, height, columns, rows)
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


def test_mask_of_a_box_covers_what_the_box_covers_also_between_pixels():
    cells = single_grid(37, 23, columns=5, rows=3)
    mask = np.zeros((23, 37), dtype=bool)
    mask[4:19, 7:30] = True
    np.testing.assert_allclose(coverage_of_mask(cells, mask), coverage_of_box(cells, [7, 4, 30, 19]), atol=1e-12)


def test_masks_of_another_size_or_empty_are_refused():
    with pytest.raises(ValueError, match=r"expected \(H, W\) = \(20, 40\)"):
        coverage_of_mask(GRID, np.ones((40, 20), dtype=bool))
    with pytest.raises(ValueError, match="empty"):
        coverage_of_mask(GRID, np.zeros((20, 40), dtype=bool))


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param([100, 20], id="too short"),
        pytest.param([100, 20, 680, 5], id="too long"),
        pytest.param([100, -20, 720], id="negative"),
        pytest.param("T3d0", id="text too short"),
        pytest.param("", id="no text"),
        pytest.param("T3d0\x7f", id="other characters"),
        pytest.param(b"T3d0P", id="cut off"),
    ],
)
def test_run_lengths_that_do_not_fill_the_picture_are_refused(counts):
    with pytest.raises(ValueError, match="run lengths"):
        mask_of_rle({"size": [20, 40], "counts": counts}, 40, 20)


def test_rle_in_its_three_spellings_is_the_mask():
    from pycocotools import mask as coco

    mask = np.zeros((20, 40), dtype=bool)
    mask[3:9, 5:21] = True
    compressed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = compressed["counts"].decode()
    uncompressed = {"size": [20, 40], "counts": [5 * 20 + 3, *([6, 14] * 15), 6, 20 * 40 - 21 * 20 + 11]}
    for rle in (counts, {"size": [20, 40], "counts": counts}, uncompressed):
        np.testing.assert_array_equal(mask_of_rle(rle, 40, 20), mask)
    with pytest.raises(ValueError, match="size"):
        mask_of_rle({"size": [40, 20], "counts": counts}, 40, 20)
    expected = coverage_of_mask(GRID, mask)
    np.testing.assert_array_equal(coverage_of_region(GRID, {"box": [0, 0, 1, 1], "rle": counts}), expected)


def test_polygons_are_united():
    mask = mask_of_polygons([[0, 0, 10, 0, 10, 10, 0, 10], [20, 10, 40, 10, 40, 20, 20, 20]], 40, 20)
    np.testing.assert_allclose(coverage_of_mask(GRID, mask), [1, 0, 0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(
        coverage_of_region(GRID, {"polygons": [[0, 0, 10, 0, 10, 10, 0, 10]]}), [1, 0, 0, 0, 0, 0, 0, 0]
    )
    with pytest.raises(ValueError, match="three points"):
        mask_of_polygons([[0, 0, 5, 5]], 40, 20)


def test_soft_tokens_carry_their_coverage_and_drop_slivers():
    tokens, weights = region_tokens(GRID, [[5, 0, 20.4, 10]])  # half of cell 0, cell 1, 4 percent of cell 2
    assert tokens.dtype == np.int64
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(tokens, [0, 1])
    np.testing.assert_allclose(weights, [0.5, 1.0])


@pytest.mark.parametrize("soft", [True, False])
def test_threshold_0_takes_every_cell_that_a_mask_touches_and_no_other(soft: bool):
    """Cells of 5.7 x 2.9 pixels: in some that the mask does not touch, the rounded shares add up to 5e-17."""
    cells = single_grid(40, 20, columns=7, rows=7)
    mask = np.zeros((20, 40), dtype=bool)
    mask[1:4, 6:9] = mask[12:15, 4:7] = True
    overlaps = coverage_of_box(cells, [6, 1, 9, 4]) + coverage_of_box(cells, [4, 12, 7, 15])
    tokens, weights = region_tokens(cells, [mask], threshold=0, soft=soft)
    np.testing.assert_array_equal(tokens, np.flatnonzero(overlaps))
    np.testing.assert_allclose(weights, overlaps[tokens] if soft else 1.0, rtol=1e-6)


def test_hard_tokens_are_those_covered_by_half():
    tokens, weights = region_tokens(GRID, [[5, 0, 24.9, 10]], soft=False)
    np.testing.assert_array_equal(tokens, [0, 1])
    np.testing.assert_array_equal(weights, [1, 1])


def test_an_object_smaller_than_a_cell_takes_the_cell_of_largest_overlap():
    box = [19.5, 3, 20.2, 4]  # 0.5 percent of cell 1, 0.2 percent of cell 2
    tokens, weights = region_tokens(GRID, [box])
    np.testing.assert_array_equal(tokens, [1])
    np.testing.assert_allclose(weights, [0.005])
    tokens, weights = region_tokens(GRID, [box], soft=False)
    np.testing.assert_array_equal(tokens, [1])
    np.testing.assert_allclose(weights, [1.0])


def test_the_union_takes_the_largest_weight_and_never_counts_twice():
    regions = [
        {"box": [0, 0, 10, 10], "weight": 0.5, "image": 0, "role": "evidence", "rle": None},
        {"box": [0, 0, 20, 5], "weight": 0.8, "image": 0, "role": "answer", "rle": None},
    ]
    tokens, weights = region_tokens(GRID, regions)
    np.testing.assert_array_equal(tokens, [0, 1])
    np.testing.assert_allclose(weights, [0.5, 0.4])  # cell 0: max(0.5 * 1, 0.8 * 0.5)


def test_tokens_of_a_second_image_count_on():
    tokens, _ = region_tokens([GRID, GRID], [{"box": [0, 0, 10, 10], "image": 1}, {"box": [30, 10, 40, 20]}])
    np.testing.assert_array_equal(tokens, [7, 8])
    with pytest.raises(ValueError, match="image 2"):
        region_tokens([GRID, GRID], [{"box": [0, 0, 10, 10], "image": 2}])


def test_an_object_is_found_in_every_view_and_never_in_a_separator():
    cells = two_views()
    tokens, weights = region_tokens(cells, [[0, 0, 10, 10]])
    np.testing.assert_array_equal(tokens, [0, 9])
    np.testing.assert_allclose(weights, [1, 0.125])
    mask = np.zeros((20, 40), dtype=bool)
    mask[:10, :10] = True
    np.testing.assert_allclose(coverage_of_mask(cells, mask), coverage_of_box(cells, [0, 0, 10, 10]))


def test_a_region_that_no_token_sees_is_an_error():
    centre = VisualCells(GRID.footprints[1:3], np.zeros(2, dtype=np.int64), (40, 20))
    with pytest.raises(ValueError, match="no visual token sees"):
        region_tokens(centre, [[0, 0, 5, 5]])


def test_no_region_and_weights_without_meaning_are_errors():
    with pytest.raises(ValueError, match="no region"):
        region_tokens(GRID, [])
    with pytest.raises(ValueError, match="weight"):
        region_tokens(GRID, [{"box": [0, 0, 5, 5], "weight": 0.0}])
    with pytest.raises(ValueError, match="box, rle or polygons"):
        region_tokens(GRID, [{"label": "cat"}])


@settings(max_examples=300, deadline=None)
@given(st.integers(40, 4000), st.integers(40, 4000))
def test_the_aspect_rule_finds_the_grid_of_square_cells(width, height):
    columns, rows = max(1, round(width / 28)), max(1, round(height / 28))
    assert cells_from_count(width, height, columns * rows).grid == (columns, rows)


@pytest.mark.parametrize("count", [577, 256, 301, 512])
def test_the_aspect_rule_refuses_a_count_that_is_no_grid(count):
    with pytest.raises(ValueError, match="do not form one grid"):
        cells_from_count(640, 480, count)
