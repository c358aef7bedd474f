import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sayo.metrics.region import region_ratio, region_score, tas, token_weights, top_count


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
