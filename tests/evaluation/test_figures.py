"""Intervals, tests and figures of several responses, against brute force and worked numbers."""

import numpy as np
import pytest

from sayo.evaluation.compare import paired_difference
from sayo.evaluation.intervals import association, clusters_of, mean_interval
from sayo.evaluation.summary import of_several


def test_interval_of_a_mean():
    rng = np.random.default_rng(0)
    low, high = mean_interval(rng.normal(3.0, 2.0, 400))
    assert 2.6 < low < high < 3.4
    assert high - low == pytest.approx(2 * 1.96 * 2.0 / 20, rel=0.15)  # the normal interval, for so many
    assert mean_interval([1.0]) is None and mean_interval([]) is None


def test_ten_of_ten_is_not_certain():
    low, high = mean_interval([1.0] * 10, share=True)
    assert 0.6 < low < 0.75 and high == 1.0
    assert paired_difference([(1.0, 1.0)] * 50)["interval"][1] > 0.02


def test_questions_that_share_a_picture_or_a_problem_are_one_cluster():
    first, second, third, alone = clusters_of([("p1",), ("p1", "problem 7"), ("p2", "problem 7"), ()])
    assert first == second == third != alone


@pytest.mark.parametrize(("pictures", "per", "share"), [(20, 5, True), (100, 5, True), (60, 1, True), (60, 5, False)])
def test_intervals_hold_the_truth_as_often_as_they_say(pictures, per, share):
    """Questions about a picture go right together; for independent questions, coverage would be below 0.8."""
    rng, clusters = np.random.default_rng(1), np.repeat(np.arange(pictures), per)
    held = []
    for chance in rng.beta(1.6, 0.7, (500, pictures)):
        low, high = mean_interval((rng.random(pictures * per) < np.repeat(chance, per)).astype(float), clusters, share)
        held.append(low <= 1.6 / 2.3 <= high)
    assert 0.92 <= np.mean(held) <= 0.985


def test_the_paired_test_is_wrong_as_often_as_it_says():
    rng, clusters, wrong = np.random.default_rng(2), np.repeat(np.arange(40), 5), 0
    for _ in range(400):
        a, b = ((rng.random(200) < np.repeat(rng.beta(1.4, 0.9, 40), 5)).astype(float) for _ in range(2))
        wrong += paired_difference(list(zip(a, b, strict=True)), clusters.tolist())["p_value"] < 0.05
    assert 0.02 <= wrong / 400 <= 0.08


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(8, 2, 0.109375), (10, 0, 0.001953125), (3, 3, 1.0), (0, 0, 1.0), (1, 0, 1.0)]
)
def test_single_questions_give_mcnemars_exact_test(wins, losses, p):
    pairs = [(0.0, 1.0)] * wins + [(1.0, 0.0)] * losses + [(1.0, 1.0)]
    assert paired_difference(pairs)["p_value"] == pytest.approx(p)
    assert 0 < paired_difference([(0.0, 1.0)] * 5300 + [(1.0, 0.0)] * 4700)["p_value"] < 1e-8


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
    assert figures["difference"] == pytest.approx(0.3) and figures["test"] == "McNemar, exact"
    assert figures["interval"][0] < 0.3 < figures["interval"][1]
    assert paired_difference([(0.25, 0.5), (0.5, 0.25)])["test"] == "sign flips of clusters"
    assert paired_difference([]) is None


def test_pass_and_majority():
    samples = [
        {"correct": [1.0, 0.0, 1.0, 0.0], "answers": ["B", "A", "(B)", "C"]},
        {"correct": [0.0, 0.0, 1.0, 0.0], "answers": ["A", "a.", "B", None]},
        {"correct": [None, 1.0, 1.0, 1.0], "answers": [None, "B", "B", "B"]},  # a failed one: left out
    ]
    figures = of_several(samples)
    assert figures["pass_at"] == {"1": (2 + 1) / 8, "2": (5 / 6 + 1 / 2) / 2, "4": 1.0}
    assert figures["majority_at"] == {"1": 0.5, "2": 0.5, "4": 0.5}
    assert of_several([{"correct": [1.0], "answers": ["B"]}])["pass_at"] is None
