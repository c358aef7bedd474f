import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sayo.metrics import region_ratio, vrga

ROW = np.array([0.50, 0.02, 0.10, 0.20, 0.08, 0.06, 0.04])  # system | four visual tokens | two of text
IMAGE = slice(1, 5)


def measures(row, image, num_keys=None):
    part = row[image]
    focus = vrga.image_focus(part.sum(), len(part), num_keys or len(row))
    return focus, vrga.image_entropy(part), vrga.image_entropy(part, normalize=False)


def test_measures_of_a_row():
    focus, entropy, raw_entropy = measures(ROW, IMAGE)
    assert focus == pytest.approx(0.7, abs=1e-6)
    assert entropy == pytest.approx(1.164821, abs=1e-6)
    assert raw_entropy == pytest.approx(0.832445, abs=1e-6)
    assert vrga.entropy_focus_ratio(entropy, focus) == pytest.approx(1.664030, abs=1e-6)
    assert region_ratio(ROW[2:4].mean(), ROW[IMAGE].mean()) == pytest.approx(1.5, abs=1e-6)


def test_the_release_on_a_longer_row():
    row = np.array([0.40, 0.02, 0.03, 0.05, 0.10, 0.20, 0.05, 0.05, 0.02, 0.08])
    image = slice(1, 8)  # the release counts vision_start as a visual token
    focus, entropy, raw_entropy = measures(row, image)
    assert focus == pytest.approx(0.714286, abs=1e-6)
    assert raw_entropy == pytest.approx(1.184943, abs=1e-6)
    assert entropy == pytest.approx(1.676739, abs=1e-6)
    assert vrga.entropy_focus_ratio(entropy, focus) == pytest.approx(2.347435, abs=1e-6)
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


def test_the_complement_of_the_border():
    """The release's `~[0, 1, 2]` would take the last three of [10 .. 17]; outside of the border are the last five."""
    everything = vrga.focus_tokens(np.arange(10.0, 18.0), border=np.arange(8) < 3, deviations=-9.0)
    assert np.arange(10, 18)[everything].tolist() == [13, 14, 15, 16, 17]


@given(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=9), st.floats(0.1, 10.0))
def test_scaling_a_row_changes_no_measure(weights, scale):
    row = np.array(weights) / sum(weights)
    assert vrga.image_entropy(row[1:4] * scale) == pytest.approx(vrga.image_entropy(row[1:4]), abs=1e-6)
    scaled = region_ratio(row[1] * scale, row[1:4].mean() * scale)
    assert scaled == pytest.approx(region_ratio(row[1], row[1:4].mean()), abs=1e-5)


def test_threshold_statistics_come_from_outside_the_border():
    """The release indexes with `~indices`, which mirrors the border instead of leaving it out."""
    reference = np.array([9.0, 9.0, 9.0, 1.0, 1.2, 1.0, 1.0, 1.0])
    assert vrga.focus_tokens(reference, border=np.arange(8) < 3).tolist() == [4]


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
