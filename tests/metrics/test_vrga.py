import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sayo.metrics import vrga
from sayo.metrics.region import region_ratio

ROW = [0.50, 0.02, 0.10, 0.20, 0.08, 0.06, 0.04]  # system | four visual tokens | two of text
LONGER = [0.40, 0.02, 0.03, 0.05, 0.10, 0.20, 0.05, 0.05, 0.02, 0.08]  # as the release: with vision_start as visual


@pytest.mark.parametrize(
    ("row", "num_visual", "expected"),
    [(ROW, 4, [0.7, 1.164821, 0.832445, 1.664030]), (LONGER, 7, [0.714286, 1.676739, 1.184943, 2.347435])],
)
def test_measures_of_a_row(row, num_visual, expected):
    visual = np.array(row[1 : 1 + num_visual])
    focus, entropy = vrga.image_focus(visual.sum(), num_visual, len(row)), vrga.image_entropy(visual)
    raw_entropy = vrga.image_entropy(visual, normalize=False)
    efr = vrga.entropy_focus_ratio(entropy, focus)
    np.testing.assert_allclose([focus, entropy, raw_entropy, efr], expected, atol=1e-6)
    assert vrga.steering_gate(focus, raw_entropy)


@pytest.mark.parametrize(
    ("weight", "expected"), [(1.0, [0, 0, 1, 0]), (0.5, [0, 0.153846, 0.692308, 0.153846]), (9.0, None)]
)
def test_background_subtraction(weight, expected):
    visual, background = np.array([0.05, 0.25, 0.50, 0.20]), np.array([0.40, 0.30, 0.10, 0.20])
    result = vrga.subtract_background(visual, background, weight)
    np.testing.assert_allclose(result, visual if expected is None else expected, atol=1e-6)


def test_focus_tokens():
    reference = np.array([0.02, 0.02, 0.03, 0.03, 0.05, 0.30, 0.25, 0.05, 0.05, 0.20])
    assert vrga.focus_tokens(reference).tolist() == [5, 6, 9]
    assert vrga.focus_tokens(reference, border=np.arange(10) == 5).tolist() == [6, 9]
    assert vrga.focus_tokens(np.ones(100)).tolist() == [0, 1]
    with pytest.raises(ValueError, match="border"):
        vrga.focus_tokens(reference, border=np.ones(10, bool))


def test_the_threshold():
    """Mean + .6 deviations is 1.640625 times the mean, so a token of twice the mean is above up to .93658 of them."""
    reference = np.array([0.02, 0.02, 0.03, 0.03, 0.05, 0.30, 0.25, 0.05, 0.05, 0.20])
    limit = 0.6 * (0.2 / 0.1 - 1) / (1.640625 - 1)
    assert 9 in vrga.focus_tokens(reference, deviations=limit - 1e-6)
    assert 9 not in vrga.focus_tokens(reference, deviations=limit + 1e-6)


@given(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=9), st.floats(0.1, 10.0))
def test_scaling_a_row_changes_no_measure(weights, scale):
    row = np.array(weights) / sum(weights)
    assert vrga.image_entropy(row[1:4] * scale) == pytest.approx(vrga.image_entropy(row[1:4]), abs=1e-6)
    scaled = region_ratio(row[1] * scale, row[1:4].mean() * scale)
    assert scaled == pytest.approx(region_ratio(row[1], row[1:4].mean()), abs=1e-5)


def test_the_border_is_never_chosen_nor_part_of_the_threshold():
    """The release indexes with `~indices`, which mirrors the border instead of excluding it."""
    reference, border = np.array([9.0, 9.0, 9.0, 1.0, 1.2, 1.0, 1.0, 1.0]), np.arange(8) < 3
    assert vrga.focus_tokens(reference, border).tolist() == [4]
    assert vrga.focus_tokens(reference, border, deviations=-9.0).tolist() == [3, 4, 5, 6, 7]


def test_border():
    grid = vrga.border_tokens(5, 4).reshape(4, 5).astype(int)
    assert grid.tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert vrga.border_tokens(5, 4, share=0.35).reshape(4, 5)[0].all()
    assert vrga.border_tokens(5, 4, share=1.0).sum() == 9
    assert vrga.border_tokens(2, 2).sum() == 0


def test_neighbourhood_does_not_wrap():
    assert vrga.neighbourhood(np.array([4]), columns=5, rows=3, radius=1).tolist() == [3, 4, 8, 9]
    assert vrga.neighbourhood(np.array([], int), 5, 3).tolist() == []


def test_heads():
    focus = np.linspace(0.0, 1.9, 20).reshape(2, 10)
    efr = np.full((2, 10), 5.0)
    efr[1, 9] = 0.1
    efr[0, 0] = np.inf
    assert np.argwhere(vrga.visual_heads(focus, efr)).tolist() == [[1, 9]]
    efr[1, 9], efr[0, 5] = 9.0, 0.1
    assert np.argwhere(vrga.visual_heads(focus, efr)).tolist() == [[1, 9]]  # no head has both
    assert np.argwhere(vrga.background_heads(focus)).tolist() == [[0, 0]]
    assert not vrga.background_heads(focus, first=0).any()


def test_a_head_that_sees_no_image():
    assert vrga.image_entropy(np.zeros((2, 4))).tolist() == [0, 0]
    assert vrga.entropy_focus_ratio(np.zeros(2), np.array([0.0, 1.0])).tolist() == [np.inf, 0.0]


@given(st.integers(2, 50), st.floats(0.01, 1.0))
def test_uniform_attention(n, mass):
    row = np.full(n, mass / n)
    assert vrga.image_entropy(row) == pytest.approx(np.log(n), abs=1e-5)
    assert region_ratio(row[:1].mean(), row.mean()) == pytest.approx(1.0)
