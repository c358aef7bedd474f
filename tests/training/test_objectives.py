"""Differentiable attention losses: worked numbers and the signs of their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from sayo.training.objective import mean_log_attention, region_objective, weighted_rows

EVEN = torch.tensor([[0.5, 0.5]])


def test_region_objective_is_the_reward():
    # pooled a .04, v .03125 -> r_v .241965
    target, image = torch.tensor([[0.04, 0.04]]), torch.tensor([[0.025, 0.0375]])
    assert region_objective(target, image, EVEN).item() == pytest.approx(-0.241965, abs=1e-6)


def test_samples_without_a_region_take_no_part():
    target, image = torch.tensor([[0.2, 0.2], [0.0, 0.0]]), torch.tensor([[0.1, 0.1], [0.1, 0.1]])
    weights = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    assert region_objective(target, image, weights).item() == pytest.approx(-0.6, abs=1e-5)
    none = region_objective(target.requires_grad_(), image, torch.zeros(2, 2))
    none.backward()
    assert none.item() == 0 and target.grad.abs().sum() == 0


def test_avar_losses():
    # head image means .1 and .2, system means .55 and .25; one layer, two heads, two queries
    image = torch.tensor([[0.1, 0.1], [0.15, 0.25]])[None, None] * 3  # mass on 3 keys
    system = torch.tensor([[0.5, 0.6], [0.2, 0.3]])[None, None] * 2
    queries = torch.ones(1, 2)
    enhance = -mean_log_attention(image, torch.tensor([3.0]), queries)
    suppress = mean_log_attention(system, torch.tensor([2.0]), queries, eps=1e-6)
    assert enhance.item() == pytest.approx(1.956012, abs=1e-6)
    assert suppress.item() == pytest.approx(-0.992063, abs=1e-6)
    assert 1 + 0.15 * enhance.item() + 0.15 * suppress.item() == pytest.approx(1.144592, abs=1e-6)


def test_avar_skips_samples_without_keys_or_queries():
    masses = torch.full((3, 1, 2, 2), 0.2)
    sizes, queries = torch.tensor([2.0, 0.0, 2.0]), torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert mean_log_attention(masses, sizes, queries).item() == pytest.approx(math.log(0.1), abs=1e-6)


def test_rows_with_a_weight():
    rows, weights = weighted_rows(torch.tensor([[0.0, 0.7, 0.0, 0.3], [0.0, 0.0, 0.0, 1.0], [0.0] * 4]))
    assert rows[0].tolist() == [1, 3] and rows[1, weights[1] > 0].tolist() == [3]
    assert weights.sum(dim=1).tolist() == [1.0, 1.0, 0.0]
