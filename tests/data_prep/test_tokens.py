"""Regions -> the token columns of rows, for one grid, tiles, a crop and newline tokens, and any picture and option."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.examples import RejectedError
from data_prep.tokens import COLUMNS, TokenMapper
from sayo.geometry import Region, VisualLayout
from tests.data_prep import source_files

CASES = yaml.safe_load(Path(__file__).with_name("tokens.yaml").read_text())


@cache
def mapper(family: str, threshold: float | None = None, soft: bool = True) -> TokenMapper:
    image_processor, config = CASES["families"][family]
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


@pytest.mark.parametrize("family", CASES["families"])
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


@pytest.mark.parametrize(("options", "tokens", "weights"), CASES["options"], ids=str)
def test_the_defaults_are_those_of_the_geometry(bench, processor_dir, options, tokens, weights):
    line = {"image": "a.jpg", "question": "?", "answer": "x", "regions": [{"box": [31, 0, 51.2, 33.3]}]}
    result = source_files.prepare(bench, "jsonl", [line], "--processor", processor_dir, *options)
    assert result.exit_code == 0, result.output
    (row,) = bench.rows()
    assert row["region_tokens"] == tokens
    assert row["region_weights"] == pytest.approx(weights, abs=0.005)
