"""Advantage shapers: worked numbers, and who is paid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sayo.attention import AttentionTrace
from sayo.training.advantages import ShapingBatch, causal_credit, perceptual_anchors, token_perception


def trace(entropy, maps=None):
    length = len(entropy)
    masses = {"image": np.full((1, length + 1), 0.5, np.float32)}
    return AttentionTrace(masses, {"image": 4.0}, np.array(entropy, np.float32), (0,), maps)


def shaping_batch(advantages, traces, parts=None, dependency=None, gather=lambda tensor: tensor):
    lengths = torch.tensor([len(one) for one in traces])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    advantages = torch.tensor(advantages)
    return ShapingBatch(advantages, parts or {}, mask, traces, lambda: torch.tensor(dependency), gather)


def test_causal_credit_pays_what_the_row_could_see():
    parts = {"attention": torch.tensor([0.6]), "accuracy": torch.tensor([0.4])}
    batch = shaping_batch([1.0], [trace([0.1, 3.0, 0.2, 2.0])], parts)
    # the two most uncertain tokens are 1 and 3; their deciding rows have seen tokens < 1 and < 3
    shaped = causal_credit(batch, select="top_entropy", top_share=0.5)
    assert shaped[0].tolist() == pytest.approx([0.4 + 0.6, 0.4 + 0.3, 0.4 + 0.3, 0.4])
    shaped = causal_credit(batch, rows="of_token", select="top_entropy", top_share=0.5)
    assert shaped[0].tolist() == pytest.approx([1.0, 1.0, 0.7, 0.7])


def test_a_token_is_not_paid_for_the_row_that_chose_it():
    parts = {"attention": torch.tensor([1.0])}
    for position in range(4):
        entropy = [0.0] * 4
        entropy[position] = 1.0
        shaped = causal_credit(shaping_batch([1.0], [trace(entropy)], parts), select="entropy_weighted")
        assert shaped[0].tolist() == [1.0] * position + [0.0] * (4 - position)


def test_causal_credit_needs_the_reward():
    with pytest.raises(KeyError, match="accuracy"):
        causal_credit(shaping_batch([1.0], [trace([1.0])], {"accuracy": torch.tensor([1.0])}))


def test_token_perception_worked_numbers():
    # methods.md 5.7: S_bar = [.5, .1, .3, .1] -> scales [1.166667, .9, 1.033333, .9]
    dependency = [[0.5, 0.5], [0.1, 0.1], [0.3, 0.3], [0.1, 0.1]]
    batch = shaping_batch([1.0, -1.0, 1.0, -1.0], [trace([1.0, 1.0])] * 4, dependency=dependency)
    shaped = token_perception(batch, share=1.0)
    assert shaped[:, 0].tolist() == pytest.approx([1.166667, -0.9, 1.033333, -0.9], abs=1e-6)
    # [1.135335, .106531, 0, .049859, .004837]: len 5, k = .4 -> tokens {0, 1}
    batch = shaping_batch([1.0], [trace([1.0] * 5)], dependency=[[1.135335, 0.106531, 0.0, 0.049859, 0.004837]])
    assert token_perception(batch)[0].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_trajectory_scale_is_global():
    """A rank's own two trajectories are scaled by the range over all four."""
    dependency = [[0.3, 0.3], [0.1, 0.1]]
    everyone = torch.tensor([0.5, 0.1, 0.3, 0.1])
    batch = shaping_batch([1.0, -1.0], [trace([1.0, 1.0])] * 2, dependency=dependency, gather=lambda _: everyone)
    assert token_perception(batch, share=1.0)[:, 0].tolist() == pytest.approx([1.033333, -0.9], abs=1e-5)


def test_anchors_follow_the_image():
    # methods.md 6.4: c = [.30, .02, .05, .20, .03] -> [1.75, .583333, .708333, 1.333333, .625]
    c = np.array([0.30, 0.02, 0.05, 0.20, 0.03, 0.0])
    maps = np.zeros((1, 6, 100), np.float32)
    maps[0, :, :50] = c[:, None] / 50
    batch = shaping_batch([2.0], [trace([1.0] * 5, maps)])
    shaped = perceptual_anchors(batch, sink_share=1e-9, min_tokens=1)
    expected = 2 * np.array([1.75, 0.583333, 0.708333, 1.333333, 0.625])
    assert shaped[0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert shaped.mean().item() == pytest.approx(2.0, abs=1e-5)


def test_short_responses_keep_their_advantage():
    batch = shaping_batch([2.0], [trace([1.0, 1.0], np.random.rand(1, 3, 4).astype(np.float32))])
    assert perceptual_anchors(batch)[0].tolist() == [2.0, 2.0]
