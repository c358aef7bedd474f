"""Region scores and token weights, AVAR's shares, what depends on the image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sayo.metrics.avar import vas
from sayo.metrics.perception import dependency_filter, token_dependency
from sayo.metrics.region import region_ratio, region_score, tas, token_weights, top_count
from sayo.metrics.sinks import sink_free_mass, sink_tokens


@given(st.floats(0.01, 10.0))
def test_the_score_is_the_closed_form_of_tanh_of_log(ratio):
    score = region_score(0.1 * ratio, 0.1)
    assert score == pytest.approx(np.tanh(np.log(region_ratio(0.1 * ratio, 0.1))), abs=1e-9)
    assert tas(0.1 * ratio, 0.1) == pytest.approx((1 + score) / 2, abs=1e-12)


@pytest.mark.parametrize(
    ("length", "share", "expected"),
    [(1, 0.3, 1), (3, 0.3, 1), (4, 0.3, 2), (10, 0.3, 3), (11, 0.3, 4), (30, 0.1, 3), (100, 0.3, 30), (5, 1.0, 5)],
)
def test_how_many_tokens_a_share_selects(length, share, expected):
    assert top_count(length, share) == expected


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40), st.floats(0.01, 1.0))
def test_ties_keep_exactly_k(entropy, share):
    weights = token_weights(np.array(entropy), "top_entropy", share)
    kept = weights > 0
    assert kept.sum() == top_count(len(entropy), share)
    assert weights.sum() == pytest.approx(1.0)
    if not kept.all():
        assert np.array(entropy)[kept].min() >= np.array(entropy)[~kept].max()


def test_certain_tokens_share_the_weight_when_all_are_certain():
    np.testing.assert_array_equal(token_weights(np.zeros(4), "entropy_weighted"), [0.25] * 4)
    np.testing.assert_allclose(token_weights(np.array([1.0, 3.0, 0.0]), "entropy_weighted"), [0.25, 0.75, 0.0])


@pytest.mark.parametrize("entropy", [[], [np.nan], [-1.0], [[1.0]]])
def test_bad_entropies(entropy):
    with pytest.raises(ValueError, match="entrop"):
        token_weights(np.array(entropy))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_bad_shares(share):
    with pytest.raises(ValueError, match="share"):
        token_weights(np.ones(3), "top_entropy", share)


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


def test_bad_masses_and_orders():
    with pytest.raises(ValueError, match="L, H, U"):
        vas(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="order"):
        vas(np.ones((1, 1, 1)), np.ones((1, 1, 1)), "median")


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
def test_ties_of_dependency_keep_exactly_k(length, share):
    kept = dependency_filter(np.zeros(length), share).sum()
    assert kept == (max(1, np.ceil(share * length - 1e-9)) if length else 0)


def test_sinks_do_not_count():
    maps = np.full((2, 3, 50), 0.01)
    maps[..., 7] = 0.3
    sinks = sink_tokens(maps)
    assert np.flatnonzero(sinks).tolist() == [7]
    np.testing.assert_allclose(sink_free_mass(maps, sinks), np.full((2, 3), 0.49))
    region = np.zeros(50)
    region[6:8] = [0.5, 1.0]
    np.testing.assert_allclose(sink_free_mass(maps, sinks, region), np.full((2, 3), 0.005))
