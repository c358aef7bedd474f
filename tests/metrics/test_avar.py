import numpy as np
import pytest

from sayo.metrics.avar import vas


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


def test_eps():
    assert np.isfinite(vas(np.ones((1, 1, 1)), np.zeros((1, 1, 1))))


def test_bad_input():
    with pytest.raises(ValueError, match="L, H, U"):
        vas(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="order"):
        vas(np.ones((1, 1, 1)), np.ones((1, 1, 1)), "median")
