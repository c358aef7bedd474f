"""Differentiable attention losses: worked numbers and the signs of their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from sayo.training.objective import enhance_loss, region_objective, suppress_loss

EVEN = torch.tensor([[0.5, 0.5]])


def test_region_objective_is_the_reward():
    # methods.md 4.6: pooled a .04, v .03125 -> r_v .241965
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
    # methods.md 2.7 T5: head image means .1 and .2, system means .55 and .25; one layer, two heads, two queries
    image = torch.tensor([[0.1, 0.1], [0.15, 0.25]])[None, None] * 3  # mass on 3 keys
    system = torch.tensor([[0.5, 0.6], [0.2, 0.3]])[None, None] * 2
    queries = torch.ones(1, 2)
    enhance = enhance_loss(image, torch.tensor([3.0]), queries)
    suppress = suppress_loss(system, torch.tensor([2.0]), queries)
    assert enhance.item() == pytest.approx(1.956012, abs=1e-6)
    assert suppress.item() == pytest.approx(-0.992063, abs=1e-6)
    assert 1 + 0.15 * enhance.item() + 0.15 * suppress.item() == pytest.approx(1.144592, abs=1e-6)


def test_avar_skips_samples_without_keys_or_queries():
    masses = torch.full((3, 1, 2, 2), 0.2)
    sizes, queries = torch.tensor([2.0, 0.0, 2.0]), torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert enhance_loss(masses, sizes, queries).item() == pytest.approx(-math.log(0.1), abs=1e-6)


def test_gradient_signs():
    """T7: looking more at an image key lowers L_enh; looking more at a system key raises L_sup."""
    scores = torch.tensor([[2.0, 1.0, -1.0, 0.5]], requires_grad=True)  # system, image, image, text
    weights = scores.softmax(-1)
    image, system = weights[:, 1:3].sum()[None, None, None, None], weights[:, 0].sum()[None, None, None, None]
    one = torch.ones(1, 1)
    (grad_enhance,) = torch.autograd.grad(enhance_loss(image, torch.tensor([2.0]), one), scores, retain_graph=True)
    (grad_suppress,) = torch.autograd.grad(suppress_loss(system, torch.tensor([1.0]), one), scores)
    assert (grad_enhance[0, 1:3] < 0).all() and grad_suppress[0, 0] > 0
