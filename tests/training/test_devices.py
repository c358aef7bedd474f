"""Whole training steps on a pretended GPU: the same weights as on the CPU, and no tensor on the wrong device."""

from functools import partial

import pytest
import torch
from pretend_cuda import on_cuda, pretend_cuda

from sayo.rewards import format_reward, region_attention_reward
from sayo.training.advantages import causal_credit, perceptual_anchors, token_perception

CASES = {
    "plain": {},
    "causal credit": {"advantage_shaper": partial(causal_credit, reward="region_attention_reward")},
    "VPPO": {"advantage_shaper": token_perception},
    "AT-RL": {"advantage_shaper": partial(perceptual_anchors, min_tokens=2)},
    "objective": {"objective_weight": 1.0, "gradient_checkpointing": True, "attention_layers": "all"},
}


@pytest.mark.parametrize("case", CASES)
def test_grpo(make_trainer, case):
    def trained():
        rewards = [region_attention_reward, format_reward]
        # Adam's first step has the size of the learning rate even where a gradient is rounding noise
        trainer = make_trainer(rewards, max_steps=1, optim="sgd", learning_rate=0.1, **CASES[case])
        trainer.train()
        return dict(trainer.model.named_parameters())

    expected = trained()
    with pretend_cuda():
        found = trained()
        assert all(map(on_cuda, found.values()))
    gaps = {name: (weights - expected[name]).abs().max().item() for name, weights in found.items()}
    assert max(gaps.values()) <= 1e-5, sorted(gaps.items(), key=lambda gap: -gap[1])[:5]
