import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sayo.metrics import attention_trend, lift

MASSES = {"image": 0.20, "query": 0.08, "generated": 0.30}  # and .02 on vision_end, in no group


def test_shares_of_a_row():
    trend = attention_trend({name: np.array([[mass]]) for name, mass in MASSES.items()}, np.array([[0.40]]))
    assert trend["image"][0] == pytest.approx(0.333333, abs=1e-6)
    assert trend["query"][0] == pytest.approx(0.133333, abs=1e-6)
    assert trend["generated"][0] == pytest.approx(0.5, abs=1e-6)
    assert sum(share[0] for share in trend.values()) == pytest.approx(0.966667, abs=1e-6)


@given(st.floats(0.0, 0.95))
def test_the_prefix_does_not_matter(prefix):
    scale = (1 - prefix) / 0.6
    trend = attention_trend({name: np.array([[mass * scale]]) for name, mass in MASSES.items()}, np.array([[prefix]]))
    assert trend["image"][0] == pytest.approx(1 / 3, abs=1e-6)


def test_layers_are_a_mean_of_ratios_and_one_on_the_prefix_only_counts_as_0():
    trend = attention_trend({"image": np.array([[0.1], [0.3]])}, np.array([[0.8], [0.0]]))
    assert trend["image"][0] == pytest.approx((0.5 + 0.3) / 2)
    assert attention_trend({"image": np.zeros((1, 2))}, np.ones((1, 2)))["image"].tolist() == [0, 0]


def test_lift():
    series = np.array([0.9] * 5 + [0.1] * 20 + [0.3, 0.5] + [0.1] * 3)
    assert lift(series, [(25, 27)]) == [pytest.approx(4.0)]
    assert lift(series, [(25, 27)], window=25) == [pytest.approx(0.4 / 0.26)]
    assert lift(series, [(0, 3), (7, 7)]) == [None, None]
    assert lift(np.array([0.0, 0.5]), [(1, 2)]) == [None]
