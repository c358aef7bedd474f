import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sayo.metrics.perception import anchor_weights, dependency_filter, token_dependency, trajectory_scale
from sayo.metrics.sinks import sink_free_mass, sink_tokens


def test_dependency_and_filter():
    dependency = token_dependency(np.zeros(5), np.array([-2, -0.5, 0, 0.3, -0.1]))
    np.testing.assert_allclose(dependency, [1.135335, 0.106531, 0, 0.049859, 0.004837], atol=1e-6)
    assert dependency.mean() == pytest.approx(0.259312, abs=1e-6)
    assert np.flatnonzero(dependency_filter(dependency)).tolist() == [0, 1]


def test_dependency_estimates_the_divergence():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    assert p @ token_dependency(np.log(p), np.log(q)) == pytest.approx(0.183787, abs=1e-6)
    assert q @ token_dependency(np.log(q), np.log(p)) == pytest.approx(0.192042, abs=1e-6)


def test_dependency_is_bounded():
    assert token_dependency(np.array([-90.0, 0.0]), np.array([0.0, -90.0])).tolist() == [10.0, 10.0]


@given(st.integers(0, 30), st.floats(0.01, 1.0))
def test_ties_keep_exactly_k(length, share):
    kept = dependency_filter(np.zeros(length), share).sum()
    assert kept == (max(1, np.ceil(share * length - 1e-9)) if length else 0)


def test_trajectory_scale():
    scale = trajectory_scale(np.array([0.5, 0.1, 0.3, 0.1]))
    np.testing.assert_allclose(scale, [1.166667, 0.9, 1.033333, 0.9], atol=1e-6)
    assert scale.mean() == pytest.approx(1.0, abs=1e-12)
    same = token_dependency(np.full((3, 4), -1.0), np.full((3, 4), -1.0))
    assert trajectory_scale(same.mean(axis=1)).tolist() == [1, 1, 1]
    assert trajectory_scale(np.array([])).tolist() == []


CONNECTIVITY = np.array([0.30, 0.02, 0.05, 0.20, 0.03])


@given(st.permutations(range(5)))
def test_anchor_weights(order):
    weights = anchor_weights(CONNECTIVITY)
    np.testing.assert_allclose(weights, [1.75, 0.583333, 0.708333, 1.333333, 0.625], atol=1e-6)
    assert anchor_weights(np.full(4, 0.2)).tolist() == [1, 1, 1, 1]
    assert anchor_weights(np.array([])).tolist() == []
    order = list(order)
    np.testing.assert_allclose(anchor_weights(CONNECTIVITY[order]), weights[order], atol=1e-12)


def test_sinks_do_not_count():
    maps = np.full((2, 3, 50), 0.01)
    maps[..., 7] = 0.3
    sinks = sink_tokens(maps)
    assert np.flatnonzero(sinks).tolist() == [7]
    np.testing.assert_allclose(sink_free_mass(maps, sinks), np.full((2, 3), 0.49))
    region = np.zeros(50)
    region[6:8] = [0.5, 1.0]
    np.testing.assert_allclose(sink_free_mass(maps, sinks, region), np.full((2, 3), 0.005))
