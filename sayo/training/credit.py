"""Which reward an advantage comes from: gates, TRL's normalisation taken apart, and each reward's share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from trl.trainer.utils import nanstd

GATES = ("always", "correct", "group")
ACCURACY_NAMES = ("accuracy", "accuracy_reward")
EPS = 1e-4
"""What TRL adds to the standard deviation that it divides by."""


def check_gates(gates: Sequence[str], names: Sequence[str]) -> None:
    """Refuse gates that could not open.

    Raises:
        ValueError: an unknown gate, one for every reward is missing, or there is no accuracy reward to open them.
    """
    if len(gates) != len(names):
        raise ValueError(
            f"reward_gates has {len(gates)} entries, but there are {len(names)} reward functions: {names}"
        )
    for name, gate in zip(names, gates, strict=True):
        if gate not in GATES:
            raise ValueError(f"The gate of the reward {name!r} must be one of {', '.join(GATES)}; got {gate!r}.")
        if gate == "always":
            continue
        if name in ACCURACY_NAMES or not set(ACCURACY_NAMES) & set(names):
            raise ValueError(
                f"The gate {gate!r} of the reward {name!r} is opened by another reward named 'accuracy', but the "
                f"rewards are {list(names)}. Add one; with weight 0 it stays out of the sum."
            )


def pay_gated(rewards: torch.Tensor, names: Sequence[str], gates: Sequence[str], num_generations: int) -> torch.Tensor:
    """Rewards as they are paid: 0 where a reward's gate is closed.

    `"correct"`: open for completions whose accuracy reward is above 0 (AVAR, LASER). `"group"`: open for all
    completions of a group in which one is correct: a reward that always varies then never moves the policy where the
    outcome says nothing (phantom gradients, verl-recipe PR 125). NaN (not applicable) stays NaN, and where the
    accuracy itself is NaN a gated reward is too.

    Args:
        rewards: `(N, F)` of all processes, whole groups in order.
        names, gates: one per column; see `check_gates`.
        num_generations: completions in a group.

    Returns:
        `(N, F)`, a copy.
    """
    paid = rewards.clone()
    for column, gate in enumerate(gates):
        if gate == "always":
            continue
        accuracy = rewards[:, next(i for i, name in enumerate(names) if name in ACCURACY_NAMES)]
        is_open, is_unknown = accuracy > 0, accuracy.isnan()
        if gate == "group":
            is_open = is_open.view(-1, num_generations).any(dim=1).repeat_interleave(num_generations)
            is_unknown = is_unknown.view(-1, num_generations).all(dim=1).repeat_interleave(num_generations)
        own = torch.where(is_open | rewards[:, column].isnan(), rewards[:, column], 0.0)
        paid[:, column] = own.masked_fill(is_unknown, torch.nan)
    return paid


def advantage_parts(
    rewards: torch.Tensor,
    weights: torch.Tensor,
    num_generations: int,
    scale_rewards: str = "group",
    aggregation: str = "sum_then_normalize",
    std_floor: float = 0.0,
) -> torch.Tensor:
    """`(N, F)`: what each reward contributes to TRL's advantages. The parts of a completion sum to its advantage.

    TRL's normalisation is linear once its standard deviations are known, so it can be taken apart exactly.

    Args:
        rewards: `(N, F)` of all processes, whole groups in order; NaN where a reward does not apply.
        weights: `(F,)`.
        num_generations: completions in a group.
        scale_rewards, aggregation: TRL's `scale_rewards` and `multi_objective_aggregation`.
        std_floor: the standard deviation of a group's rewards (of the batch's under `scale_rewards="batch"`) counts
            as at least this, so that rounding noise is not blown up to advantages of 1. 0 is TRL.
    """
    unscorable = rewards.isnan().all(dim=1)
    if aggregation == "normalize_then_sum":
        grouped = rewards.view(-1, num_generations, rewards.shape[1])
        mean, std = torch.nanmean(grouped, dim=1, keepdim=True), nanstd(grouped, dim=1, keepdim=True)
        rewards = ((grouped - mean) / (std.clamp(min=std_floor) + EPS)).view(rewards.shape)
    weighted = torch.nan_to_num(rewards, nan=0.0) * weights
    weighted[unscorable] = torch.nan  # TRL leaves them out of the mean, and pays them nothing
    total = weighted.sum(dim=1)
    if aggregation == "normalize_then_sum":
        parts = (weighted - torch.nanmean(weighted, dim=0)) / (nanstd(total) + EPS)
    else:
        mean = torch.nanmean(weighted.view(-1, num_generations, weights.shape[0]), dim=1)
        parts = weighted - mean.repeat_interleave(num_generations, dim=0)
        if scale_rewards == "group":
            std = nanstd(total.view(-1, num_generations), dim=1).repeat_interleave(num_generations)
            parts = parts / (std.clamp(min=std_floor) + EPS)[:, None]
        elif scale_rewards == "batch":
            parts = parts / (nanstd(total).clamp(min=std_floor) + EPS)
    return torch.nan_to_num(parts, nan=0.0)


def zero_std_share(rewards: torch.Tensor, num_generations: int) -> torch.Tensor:
    """`(F,)`: share of the groups in which a reward does not vary (or applies to nobody)."""
    std = nanstd(rewards.view(-1, num_generations, rewards.shape[1]), dim=1)
    return (torch.nan_to_num(std, nan=0.0) < 1e-8).float().mean(dim=0)


def token_weights_of_loss(loss_type: str, mask: torch.Tensor) -> torch.Tensor:
    """`(B, T)`: how much each token weighs in the loss, up to a factor common to all.

    `"grpo"` and `"sapo"` average over the tokens of a completion first; the other loss types add tokens up.
    """
    mask = mask.float()
    return mask / mask.sum(dim=1, keepdim=True).clamp(min=1) if loss_type in ("grpo", "sapo") else mask
