import numpy as np
import pytest

from sayo.metrics import bounded, scale_scores, vas


@pytest.mark.parametrize(
    ("order", "expected"), [("mean_of_ratios", 8.5), ("heads_first", 8.5), ("ratio_of_sums", 7.2)]
)
def test_two_queries(order, expected):
    image, system = np.array([[[0.30, 0.06]]]), np.array([[[0.02, 0.03]]])
    assert vas(image, system, order, eps=0.0) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("mean_of_ratios", 4.875),
        ("heads_first", 1.595238),
        ("layers_and_heads_first", 1.595238),
        ("ratio_of_sums", 1.32),
    ],
)
def test_two_heads_two_queries(order, expected):
    image = np.array([[[0.30, 0.06], [0.20, 0.10]]])
    system = np.array([[[0.02, 0.03], [0.40, 0.05]]])
    assert vas(image, system, order, eps=0.0) == pytest.approx(expected, abs=1e-6)


def test_layers_before_or_after_the_division():
    image, system = np.array([[[0.4]], [[0.1]]]), np.array([[[0.1]], [[0.2]]])
    assert vas(image, system, "heads_first", eps=0.0) == pytest.approx((4 + 0.5) / 2)
    assert vas(image, system, "layers_and_heads_first", eps=0.0) == pytest.approx(0.5 / 0.3)


def test_eps_and_bound():
    share = vas(np.array([[[0.30, 0.06]]]), np.array([[[0.02, 0.03]]]))
    assert share == pytest.approx(8.499592, abs=1e-6)
    assert 1 + 0.3 * share + 0.1 == pytest.approx(3.649878, abs=1e-6)
    assert bounded(share) == pytest.approx(share / (1 + share))
    assert np.isfinite(vas(np.ones((1, 1, 1)), np.zeros((1, 1, 1))))


def test_bad_input():
    with pytest.raises(ValueError, match="L, H, U"):
        vas(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="order"):
        vas(np.ones((1, 1, 1)), np.ones((1, 1, 1)), "median")


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum()


SCORES = np.array([2.0, 1.0, -1.0, 0.5])  # system | image, image | text
IMAGE, SYSTEM = np.array([False, True, True, False]), np.array([True, False, False, False])


@pytest.mark.parametrize(
    ("alphas", "expected", "ratio"),
    [
        ((0.0, 0.0), [0.609460, 0.224208, 0.030343, 0.135989], 0.417667),
        ((0.15, 0.0), [0.590529, 0.252401, 0.025305, 0.131765], 0.470267),
        ((0.15, 0.4), [0.393208, 0.374031, 0.037500, 0.195261], 1.046599),
    ],
)
def test_score_scaling(alphas, expected, ratio):
    weights = softmax(scale_scores(SCORES, IMAGE, SYSTEM, *alphas))
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert weights[IMAGE].sum() / weights[SYSTEM].sum() == pytest.approx(ratio, abs=1e-6)


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(2, [0.190501, 0.544384, 0.054579, 0.210536]), (-3, [0.740429, 0.135264, 0.013561, 0.110745])],
)
def test_score_scaling_is_not_shift_invariant(shift, expected):
    weights = softmax(scale_scores(SCORES + shift, IMAGE, SYSTEM, 0.15, 0.4))
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_reweighting_is_something_else():
    """The same factors on the weights, scaled back to sum 1, lift the negative image score as well."""
    weights = softmax(SCORES) * (1 + 0.15 * IMAGE - 0.4 * SYSTEM)
    weights /= weights.sum()
    np.testing.assert_allclose(weights, [0.460318, 0.324571, 0.043926, 0.171185], atol=1e-6)
    np.testing.assert_allclose(weights, softmax(SCORES + np.log(1 + 0.15 * IMAGE - 0.4 * SYSTEM)), atol=1e-12)
    assert weights[IMAGE].sum() / weights[SYSTEM].sum() == pytest.approx(0.800527, abs=1e-6)
