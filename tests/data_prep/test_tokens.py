"""Regions -> the token columns of rows, for one grid, tiles, a crop and newline tokens, and any picture and option."""

from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.examples import RejectedError
from data_prep.tokens import COLUMNS, TokenMapper
from sayo.geometry import Region, VisualLayout

VIT = {"image_size": 112, "patch_size": 14}
POINTS = [[h, w] for h in (112, 224, 336) for w in (112, 224, 336)]
CROP = {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}}
# (image processor, config) of each family, small enough to be quick
FAMILIES = {
    "qwen2_5_vl": ({"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 400}, "patch_size": 14}, {}),
    "internvl": (
        {"size": {"height": 112, "width": 112}, "crop_to_patches": True, "max_patches": 6, "min_patches": 1},
        {"vision_config": VIT, "downsample_ratio": 0.5},
    ),
    "llava": (CROP, {"vision_config": VIT}),
    "llava_next": (CROP, {"vision_config": VIT, "image_grid_pinpoints": POINTS}),
}


@cache
def mapper(family: str, threshold: float | None = None, soft: bool = True) -> TokenMapper:
    image_processor, config = FAMILIES[family]
    layout = VisualLayout._from_settings(image_processor, {"model_type": family, **config}, {})
    return TokenMapper(layout, threshold, soft)


sizes = st.tuples(st.integers(28, 700), st.integers(28, 700))
shares = st.tuples(*[st.floats(0, 1)] * 2).filter(lambda pair: abs(pair[0] - pair[1]) > 0.01).map(sorted)


@st.composite
def pictures(draw):
    """(size, entry of the regions column): a box anywhere in the picture, half of them with a mask that fills it."""
    size = draw(sizes)
    (x1, x2), (y1, y2) = draw(shares), draw(shares)
    box, mask = (x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]), None
    if draw(st.booleans()):
        left, top = int(box[0]), int(box[1])
        box = left, top, max(left + 1, round(box[2])), max(top + 1, round(box[3]))
        mask = np.zeros((size[1], size[0]), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
    return size, Region(box, weight=draw(st.sampled_from([0.5, 1.0])), mask=mask).fit(size).row()


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(picture=pictures(), soft=st.booleans(), threshold=st.sampled_from([None, 0.0, 0.3, 0.99]))
def test_tokens_of_any_region(family: str, picture, soft: bool, threshold: float | None):
    size, region = picture
    to_tokens = mapper(family, threshold, soft)
    cells = to_tokens.layout.cells(*size)
    try:
        row = to_tokens([size], [region])
    except RejectedError as error:
        assert (family, error.reason) == ("llava", "region_unseen_by_processor")  # cut off by the centre crop
        return
    tokens, weights = np.array(row["region_tokens"]), np.array(row["region_weights"])
    assert list(row) == list(COLUMNS)
    assert row["num_visual_tokens"] == [len(cells)]
    assert len(tokens) == len(weights) > 0
    assert (np.diff(tokens) > 0).all()
    assert 0 <= tokens[0] and tokens[-1] < len(cells)
    assert ((weights > 0) & (weights <= region["weight"] + 1e-6)).all()
    if not soft:
        assert (weights == region["weight"]).all()
    # each chosen cell overlaps the region, and no cell that lies wholly inside it is left out
    x1, y1, x2, y2 = region["box"]
    left, top, right, bottom = cells.footprints[tokens].T
    assert (np.minimum(right, x2) > np.maximum(left, x1) - 1e-6).all()
    assert (np.minimum(bottom, y2) > np.maximum(top, y1) - 1e-6).all()
    left, top, right, bottom = np.nan_to_num(cells.footprints, nan=-1).T
    inside = (left >= x1) & (top >= y1) & (right <= x2) & (bottom <= y2)
    assert set(np.flatnonzero(inside)) <= set(tokens.tolist())
    again = VisualLayout.from_fingerprint(row["processor_fingerprint"])
    assert TokenMapper(again, threshold, soft)([size], [region]) == row


def test_tiles_and_thumbnail_both_get_tokens():
    row = mapper("internvl")([(600, 400)], [Region((200.0, 100.0, 400.0, 300.0))])
    views = mapper("internvl").layout.cells(600, 400).views[row["region_tokens"]]
    assert set(views.tolist()) == {0, 1}


def test_the_defaults_are_those_of_the_geometry(bench, processor_dir):
    """A box over 3 % and 60 % of two cells: soft keeps the second (5 %), hard keeps it too (50 %), 0 keeps both."""
    line = {"image": "a.jpg", "question": "?", "answer": "x", "regions": [{"box": [31, 0, 51.2, 33.3]}]}
    bench.picture("a.jpg")
    file = bench.lines(line)
    expected = {
        (): ([1], [0.6]),
        ("--threshold", "0"): ([0, 1], [0.03125, 0.6]),
        ("--hard",): ([1], [1.0]),
        ("--hard", "--threshold", "0.7"): ([1], [1.0]),  # none is covered that much: the largest overlap
        ("--threshold", "0.01", "--hard"): ([0, 1], [1.0, 1.0]),
    }
    for number, (options, (tokens, weights)) in enumerate(expected.items()):
        out = f"out{number}"
        more = ("--processor", processor_dir, *options)
        result = bench.prepare("jsonl", "--questions", file, "--images", bench.images, *more, out=out)
        assert result.exit_code == 0, result.output
        (row,) = bench.rows(out)
        assert row["region_tokens"] == tokens
        assert row["region_weights"] == pytest.approx(weights, abs=0.005)
