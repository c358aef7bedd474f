"""Whole training steps on a pretended GPU: no tensor is made on the wrong device."""

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
    """A whole step: sampling, the scoring pass and its reading, rewards, advantages, loss, backward, optimizer."""
    trainer = make_trainer([region_attention_reward, format_reward], max_steps=1, **CASES[case])
    with pretend_cuda():
        trainer.model.to("cuda")
        before = [weights.detach().clone() for weights in trainer.model.parameters()]
        trainer.train()
        after = list(trainer.model.parameters())
        assert all(map(on_cuda, after)) and all(weights.isfinite().all() for weights in after)
        assert not all(map(torch.equal, before, after))
