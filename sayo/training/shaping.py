"""From one advantage per completion to advantages per token, and how much of them each reward is responsible for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from trl.models.utils import disable_gradient_checkpointing

from sayo.advantages import ShapingBatch
from sayo.attention import AttentionTrace
from sayo.metrics.perception import token_dependency
from sayo.training.credit import advantage_parts, token_weights_of_loss, zero_std_share
from sayo.training.perturbation import blank_patches

if TYPE_CHECKING:
    from sayo.training.grpo import RegionGRPOTrainer

AdvantageShaper = Callable[[ShapingBatch], torch.Tensor]


@dataclass
class ScoredRollouts:
    """What one pass of generating and scoring leaves for the advantages and the loss.

    Attributes:
        inputs: rows of the data set, one per completion of this process.
        traces: one per completion, once the policy has been read.
        groups: key weights over the padded sequences, `(B, P + T)`.
        logps: `(B, T)` log-probabilities of the sampled tokens.
        call: positional and keyword arguments of the scoring forward.
        rewards: `(N, F)` as paid, of all processes.
    """

    inputs: Sequence[dict]
    traces: list[AttentionTrace] | None = None
    groups: dict[str, torch.Tensor] = field(default_factory=dict)
    logps: torch.Tensor | None = None
    call: tuple[tuple, dict] = ((), {})
    rewards: torch.Tensor | None = None


def shape_advantages(trainer: RegionGRPOTrainer, output: dict[str, Any], scored: ScoredRollouts) -> None:
    """Apply the floor and the shaper of `trainer` to `output["advantages"]`, and log who they come from.

    Logs, for every reward, `rewards/<name>/frac_zero_std` (share of the groups in which it does not vary) and, where
    there are several, `gradient_share/<name>`: the sum over the step's tokens of `w |A_name|`, divided by the same sum
    over all rewards. `A_name` is what the reward alone contributes to the token's advantage (after the shaper, which
    must be linear in the advantages for this), `w` the token's weight in the loss. Shares add up to 1; parts of
    opposite signs cancel in the gradient but not here.
    """
    args, names = trainer.args, trainer.reward_func_names
    parts = advantage_parts(
        scored.rewards,
        trainer.reward_weights.to(scored.rewards.device),
        trainer.num_generations,
        trainer.scale_rewards,
        trainer.multi_objective_aggregation,
        args.advantage_std_floor,
    )
    metrics = trainer._metrics["train"]
    for name, share in zip(names, zero_std_share(scored.rewards, trainer.num_generations).tolist(), strict=True):
        metrics[f"rewards/{name}/frac_zero_std"].append(share)
    first = trainer.accelerator.process_index * len(scored.inputs)
    own = dict(zip(names, parts[first : first + len(scored.inputs)].unbind(dim=1), strict=True))
    if args.advantage_std_floor > 0:
        output["advantages"] = sum(own.values())
        _replace_last(trainer._logs["advantages"], parts.sum(dim=1).tolist())
    mask = output["completion_mask"] * output.get("tool_mask", 1)
    batch = ShapingBatch(
        output["advantages"],
        own,
        output["completion_mask"],
        scored.traces,
        dependency=cache(lambda: _dependency(trainer, scored)),
        gather=trainer.accelerator.gather,
    )
    if trainer.advantage_shaper is not None:
        output["advantages"] = _shaped(trainer.advantage_shaper, batch)
    if len(names) > 1:
        for name, share in _gradient_shares(trainer, batch, mask).items():
            metrics[f"gradient_share/{name}"].append(share)


def _shaped(shaper: AdvantageShaper, batch: ShapingBatch) -> torch.Tensor:
    shaped = shaper(batch)
    if shaped.shape != batch.completion_mask.shape:
        raise ValueError(
            f"The advantage shaper returned {tuple(shaped.shape)}; it must give every token an advantage: "
            f"{tuple(batch.completion_mask.shape)}."
        )
    return shaped.to(batch.advantages.device)


def _gradient_shares(trainer: RegionGRPOTrainer, batch: ShapingBatch, mask: torch.Tensor) -> dict[str, float]:
    """See `shape_advantages`; empty when nothing is paid."""
    weights = token_weights_of_loss(trainer.loss_type, mask)
    sums = []
    for name, part in batch.parts.items():
        others = {other: torch.zeros_like(part) for other in batch.parts}
        alone = dataclasses.replace(batch, advantages=part, parts={**others, name: part})
        paid = part[:, None] if trainer.advantage_shaper is None else _shaped(trainer.advantage_shaper, alone)
        sums.append((weights * paid.abs()).sum())
    totals = trainer.accelerator.reduce(torch.stack(sums), reduction="sum")
    if totals.sum() == 0:
        return {}
    return dict(zip(batch.parts, (totals / totals.sum()).tolist(), strict=True))


@torch.no_grad()
def _dependency(trainer: RegionGRPOTrainer, scored: ScoredRollouts) -> torch.Tensor:
    """`(B, T)` VPPO's dependency of each token on the image: one more scoring forward, with blanked patches."""
    words, options = scored.call
    with disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs):
        blanked, _, _ = trainer._get_per_token_logps_and_entropies(
            *words, **blank_patches(options, trainer.model.config)
        )
    dependency = token_dependency(scored.logps.float().cpu().numpy(), blanked.float().cpu().numpy())
    return torch.as_tensor(dependency, dtype=torch.float32, device=scored.logps.device)


def _replace_last(queue: Any, values: list[float]) -> None:
    """TRL has logged its own advantages for the completions table by now."""
    for _ in range(min(len(values), len(queue))):
        queue.pop()
    queue.extend(values)
