"""Which reward an advantage comes from: gates, TRL's normalisation taken apart, shares of the gradient."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import torch
from trl.trainer.utils import nanstd

from sayo.recipes import Gate, RecipeError
from sayo.training.advantages import AdvantageShaper, ShapingBatch

ACCURACY_NAMES = ("accuracy", "accuracy_reward")
EPS = 1e-4
"""What TRL adds to the standard deviation that it divides by."""

ROUNDINGS = 16
"""Units in the last place that a sum over rewards, its mean and its standard deviation may be off by, taken twice."""

TOKEN_MEAN_LOSSES = ("grpo", "sapo")
TOKEN_SUM_LOSSES = ("bnpo", "dr_grpo", "dapo", "cispo", "luspo", "vespo")


def check_gates(gates: Sequence[str], names: Sequence[str], objective_gate: str = "always") -> None:
    """RecipeError for gates that could not open: an unknown one, one is missing, no accuracy reward opens them."""
    has_accuracy = bool(set(ACCURACY_NAMES) & set(names))
    if objective_gate != "always" and not has_accuracy:
        raise RecipeError("objective_gate=correct needs a reward named 'accuracy'; with weight 0 it only gates.")
    if len(gates) != len(names):
        raise RecipeError(f"reward_gates has {len(gates)} entries, but there are {len(names)} rewards: {names}")
    for name, gate in zip(names, gates, strict=True):
        if gate not in get_args(Gate):
            raise RecipeError(f"The gate of the reward {name!r} must be one of {get_args(Gate)}; got {gate!r}.")
        if gate != "always" and (name in ACCURACY_NAMES or not has_accuracy):
            raise RecipeError(
                f"The gate {gate!r} of the reward {name!r} is opened by another reward named 'accuracy', but the "
                f"rewards are {list(names)}. Add one; with weight 0 it stays out of the sum."
            )


def pay_gated(rewards: torch.Tensor, names: Sequence[str], gates: Sequence[str], num_generations: int) -> torch.Tensor:
    """Rewards as they are paid, `(N, F)`: 0 where a reward's gate is closed.

    `"correct"`: open for completions whose accuracy reward is above 0 (AVAR, LASER). `"group"`: open for all
    completions of a group in which one is correct: a reward that always varies then never moves the policy where the
    outcome says nothing (phantom gradients, verl-recipe PR 125). NaN (not applicable) stays NaN, and where the
    accuracy itself is NaN a gated reward is too.

    Args:
        rewards: `(N, F)` of all processes, whole groups in order.
        names, gates: one per column; see `check_gates`.
        num_generations: completions in a group.
    """
    paid = rewards.clone()
    for column, gate in enumerate(gates):
        if gate == "always":
            continue
        accuracy = accuracy_of(rewards, names)
        size = num_generations if gate == "group" else 1
        is_open = (accuracy > 0).view(-1, size).any(dim=1).repeat_interleave(size)
        is_unknown = accuracy.isnan().view(-1, size).all(dim=1).repeat_interleave(size)
        paid[:, column] = rewards[:, column].where(is_open | rewards[:, column].isnan(), 0.0)
        paid[is_unknown, column] = torch.nan
    return paid


def accuracy_of(rewards: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """`(N,)`: the accuracy reward of `(N, F)`, which opens the gates."""
    return rewards[:, next(i for i, name in enumerate(names) if name in ACCURACY_NAMES)]


def advantage_parts(
    rewards: torch.Tensor,
    weights: torch.Tensor,
    num_generations: int,
    scale_rewards: str = "group",
    aggregation: str = "sum_then_normalize",
    std_floor: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What each reward contributes to TRL's advantages, which are linear in the rewards once their std is known.

    Args:
        rewards: `(N, F)` of all processes, whole groups in order; NaN where a reward does not apply.
        weights: `(F,)`.
        num_generations: completions in a group.
        scale_rewards, aggregation: TRL's `scale_rewards` and `multi_objective_aggregation`.
        std_floor: the standard deviation of a group's rewards (of the batch's under `scale_rewards="batch"`) counts
            as at least this, so that rounding noise is not blown up to advantages of 1. 0 is TRL.

    Returns:
        parts `(N, F)`, which sum to the advantage of a completion; scales `(N, F)`, what a reward of 1 more would add
        to it; and `(N,)`, how far rounding may take the sum from TRL's own: some units of the largest weighted reward
        over which the mean is taken, divided as the rewards are.

    Raises:
        ValueError: a mode of TRL's that is not known here.
    """
    _check_mode("scale_rewards", scale_rewards, ("group", "batch", "none"))
    _check_mode("multi_objective_aggregation", aggregation, ("sum_then_normalize", "normalize_then_sum"))
    unscorable = rewards.isnan().all(dim=1)
    scales = weights.expand_as(rewards)
    size, floor = num_generations, std_floor  # completions over which TRL takes the mean, and the floor of their std
    if aggregation == "normalize_then_sum":
        grouped = rewards.view(-1, num_generations, rewards.shape[1])
        mean, std = torch.nanmean(grouped, dim=1, keepdim=True), nanstd(grouped, dim=1, keepdim=True)
        divisor = (std.clamp(min=std_floor) + EPS).expand_as(grouped).reshape(rewards.shape)
        rewards = (grouped - mean).view(rewards.shape) / divisor
        scales = scales / divisor
        size, floor, scale_rewards = len(rewards), 0.0, "batch"
    weighted = torch.nan_to_num(rewards, nan=0.0) * weights
    largest = weighted.abs().sum(dim=1)
    weighted[unscorable] = torch.nan  # TRL leaves them out of the mean, and pays them nothing
    mean = torch.nanmean(weighted.view(-1, size, len(weights)), dim=1)
    parts = weighted - mean.repeat_interleave(size, dim=0)
    divisor = torch.ones_like(largest)
    if scale_rewards != "none":
        size = num_generations if scale_rewards == "group" else len(rewards)
        std = nanstd(weighted.sum(dim=1).view(-1, size), dim=1).repeat_interleave(size)
        divisor = std.clamp(min=floor) + EPS
    parts, scales = (torch.nan_to_num(each / divisor[:, None], nan=0.0) for each in (parts, scales))
    largest = largest.view(-1, size).amax(dim=1).repeat_interleave(size)
    # The mean is off by a few units of the largest reward; the std too, in proportion to the advantage.
    rounding = ROUNDINGS * torch.finfo(weighted.dtype).eps * largest / divisor * (1 + parts.sum(dim=1).abs())
    return parts, scales, torch.nan_to_num(rounding, nan=0.0)


def named_parts(names: Sequence[str], parts: torch.Tensor) -> dict[str, torch.Tensor]:
    """Reward name -> `(B,)` of parts `(B, F)`; rewards of one name, which TRL logs as one, are one part."""
    named: dict[str, torch.Tensor] = {}
    for name, part in zip(names, parts.unbind(dim=1), strict=True):
        named[name] = named[name] + part if name in named else part
    return named


def check_parts(parts: torch.Tensor, advantages: torch.Tensor, rounding: torch.Tensor) -> None:
    """Check that the parts, `(B, F)`, sum to TRL's own advantages, `(B,)`, as they must without a floor.

    Raises:
        RuntimeError: they differ by more than `rounding`, `(B,)`.
    """
    difference = (parts.sum(dim=1) - advantages).abs()
    if not (difference <= rounding).all():
        worst = (difference - rounding).argmax()
        raise RuntimeError(
            f"The parts of the rewards sum to other advantages than TRL's (by {difference[worst]:.2g}, where rounding "
            f"explains {rounding[worst]:.2g}): this TRL normalises rewards in another way than "
            "sayo.training.credit.advantage_parts. Install the version that sayo was tested with."
        )


def zero_std_share(rewards: torch.Tensor, num_generations: int) -> torch.Tensor:
    """`(F,)`: share of the groups in which a reward does not vary (or applies to nobody)."""
    std = nanstd(rewards.view(-1, num_generations, rewards.shape[1]), dim=1)
    return (torch.nan_to_num(std, nan=0.0) < 1e-8).float().mean(dim=0)


def token_weights_of_loss(loss_type: str, mask: torch.Tensor) -> torch.Tensor:
    """`(B, T)`: how much each token weighs in the loss, up to a factor common to all.

    `"grpo"` and `"sapo"` average over the tokens of a completion first; the other loss types add tokens up. One that
    is not known here is a ValueError.
    """
    _check_mode("loss_type", loss_type, TOKEN_MEAN_LOSSES + TOKEN_SUM_LOSSES)
    mask = mask.float()
    return mask / mask.sum(dim=1, keepdim=True).clamp(min=1) if loss_type in TOKEN_MEAN_LOSSES else mask


def shape_advantages(
    batch: ShapingBatch,
    shaper: AdvantageShaper | None,
    token_weights: torch.Tensor,
    reduce_sum: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, dict[str, float]]:
    """Spread advantages over the tokens, and say how much of the gradient each reward is responsible for.

    Args:
        shaper: or None to leave the advantages as they are; another shape than `(B, T)` from it is a ValueError.
        token_weights: `(B, T)`, see `token_weights_of_loss`.
        reduce_sum: sums a tensor over all ranks.

    Returns:
        the advantages, `(B, T)` from a shaper and `(B,)` without one, and for several rewards `gradient_share/<name>`:
        the sum over the step's tokens of `w |A_name|`, divided by the same sum over all rewards. `A_name` is what the
        reward alone contributes to the token's advantage (after the shaper, which must be linear for this), `w` the
        token's weight. Shares add up to 1; parts of opposite signs cancel in the gradient but not here.
    """
    advantages = _shaped(shaper, batch)
    if len(batch.parts) == 1:
        return advantages, {}
    sums = []
    for name, part in batch.parts.items():
        alone = {key: _only(name, getattr(batch, key)) for key in ("parts", "scales")}
        shaped = _shaped(shaper, dataclasses.replace(batch, advantages=part, **alone))
        sums.append((token_weights * shaped.reshape(len(part), -1).abs()).sum())
    totals = reduce_sum(torch.stack(sums))
    shares = (totals / totals.sum()).tolist() if totals.sum() > 0 else []
    return advantages, {f"gradient_share/{name}": share for name, share in zip(batch.parts, shares, strict=False)}


def _only(name: str, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {other: value if other == name else torch.zeros_like(value) for other, value in values.items()}


def _shaped(shaper: AdvantageShaper | None, batch: ShapingBatch) -> torch.Tensor:
    if shaper is None:
        return batch.advantages
    shaped = shaper(batch)
    if shaped.shape != batch.completion_mask.shape:
        raise ValueError(
            f"The advantage shaper returned {tuple(shaped.shape)}; it must give every token an advantage: "
            f"{tuple(batch.completion_mask.shape)}."
        )
    return shaped.to(batch.advantages.device)


def _check_mode(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"TRL's {key}={value!r} is not known to sayo, which knows {', '.join(known)}.")
