"""Intervals and tests against brute force and worked numbers."""

import numpy as np
import pytest

from sayo.evaluation.compare import paired_difference
from sayo.evaluation.intervals import association, mean_interval, sign_test


def test_interval_of_a_mean():
    rng = np.random.default_rng(0)
    low, high = mean_interval(rng.normal(3.0, 2.0, 400))
    assert 2.6 < low < high < 3.4
    assert high - low == pytest.approx(2 * 1.96 * 2.0 / 20, rel=0.15)  # the normal interval, for so many
    assert mean_interval([1.0, 1.0, 1.0]) == [1.0, 1.0]
    assert mean_interval([1.0]) is None and mean_interval([]) is None


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = [low <= 0.7 <= high for low, high in (mean_interval(rng.random(80) < 0.7) for _ in range(200))]
    assert 0.88 <= np.mean(held) <= 0.99


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(8, 2, 0.109375), (10, 0, 0.001953125), (3, 3, 1.0), (0, 0, 1.0), (1, 0, 1.0)]
)
def test_sign_test(wins, losses, p):
    assert sign_test(wins, losses) == pytest.approx(p) == sign_test(losses, wins)
    assert 0 < sign_test(5300, 4700) < 1e-8


def test_association_against_brute_force():
    rng = np.random.default_rng(2)
    right = rng.random(300) < 0.5
    value = np.round(0.5 * right + rng.normal(size=300), 1)  # rounded: there are ties
    figures = association(list(zip(value, right.astype(float), np.arange(300) // 3, strict=True)))
    pairs = value[right][:, None] - value[~right][None]
    assert figures["auc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert figures["mean_right"] == pytest.approx(value[right].mean())
    low, high = figures["auc_interval"]
    assert 0.5 < low < figures["auc"] < high  # half a standard deviation apart: seen with 300


def test_association_resamples_questions_not_responses():
    rng = np.random.default_rng(3)
    value, right = np.repeat(rng.normal(size=30), 20), np.repeat(rng.random(30) < 0.5, 20).astype(float)
    wide = association([*zip(value, right, np.repeat(np.arange(30), 20), strict=True)])["auc_interval"]
    narrow = association([*zip(value, right, np.arange(600), strict=True)])["auc_interval"]
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_association_that_is_not_defined():
    all_right = association([(0.1, 1.0, "a"), (0.9, 1.0, "b")])
    assert all_right["auc"] is None and all_right["mean_wrong"] is None
    assert all_right["auc_interval"] is None and all_right["num_right"] == 2
    assert association([])["auc"] is None and association([])["mean"] is None


def test_paired_difference():
    pairs = [(0.0, 1.0)] * 8 + [(1.0, 0.0)] * 2 + [(1.0, 1.0)] * 10
    figures = paired_difference(pairs)
    assert figures["difference"] == pytest.approx(0.3) and (figures["better"], figures["worse"]) == (8, 2)
    assert figures["p_value"] == pytest.approx(0.109375) and figures["test"] == "McNemar, exact"
    assert figures["interval"][0] < 0.3 < figures["interval"][1]
    assert paired_difference([(0.25, 0.5), (0.5, 0.25)])["test"] == "sign test, exact"
    assert paired_difference([]) is None
