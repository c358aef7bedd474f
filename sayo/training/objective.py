"""Attention as an objective: the region score of the policy itself, added to the GRPO loss.

The reward samples responses and pays those that looked right; the objective descends the same score directly, through
the queries and keys of the layers that are read. Rows and weights are the reward's: fixed when the rollout is scored,
carried to the loss with the rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from sayo.attention import AttentionTrace
from sayo.metrics.region import token_weights
from sayo.objectives import region_objective


class RegionObjective:
    """Mixin in front of a TRL GRPO trainer: adds `objective_weight * region_objective` to every training loss.

    Overridden methods, both extended: `training_step` (gradient checkpointing runs the layers again during the
    backward pass, so the reading stays open until it is over) and `_compute_loss`.

    Logs `objective/region`, the region score of the current policy on its rollouts (higher is better), and
    `objective/weight`.
    """

    _objective_stack: ExitStack | None = None

    @property
    def objective_weight(self) -> float:
        """Weight at the current step: linear warm-up, then constant. A function of the step alone, as resume needs."""
        warmup = self.args.objective_warmup_steps
        return self.args.objective_weight * min(1.0, (self.state.global_step + 1) / max(1, warmup))

    def training_step(self, model, inputs, *args, **kwargs):
        with ExitStack() as self._objective_stack:
            return super().training_step(model, inputs, *args, **kwargs)

    def _compute_loss(self, model, inputs):
        weight = self.objective_weight
        if weight == 0 or not model.training:
            return super()._compute_loss(model, inputs)
        rows, row_weights = _rows(inputs, self.args.objective_rows)
        completion_width = inputs["completion_ids"].shape[1]
        groups = {
            name: torch.nn.functional.pad(inputs[f"objective_{name}"], (0, completion_width))
            for name in ("region", "image")
        }
        reading = self._objective_stack.enter_context(self._capture.reading(rows.cpu(), groups, gradients=True))
        loss = super()._compute_loss(model, inputs)
        per_key = {
            name: reading.masses[name].mean(dim=1) / group.sum(dim=1, keepdim=True).clamp(min=1e-6)
            for name, group in groups.items()
        }
        objective = region_objective(per_key["region"], per_key["image"], row_weights)
        self._log_objective(objective, row_weights, weight)
        return loss + weight * objective / self.current_gradient_accumulation_steps

    def _log_objective(self, objective: torch.Tensor, row_weights: torch.Tensor, weight: float) -> None:
        count = (row_weights.sum(dim=1) > 0).sum()
        total = self.accelerator.reduce(torch.stack([-objective.detach() * count, count.float()]), reduction="sum")
        if total[1] > 0:
            self._metrics["train"]["objective/region"].append((total[0] / total[1]).item())
        self._metrics["train"]["objective/weight"].append(weight)


def objective_inputs(
    traces: Sequence[AttentionTrace],
    groups: dict[str, torch.Tensor],
    completion_width: int,
    select: str,
    top_share: float,
) -> dict[str, torch.Tensor]:
    """What the loss needs of a scored rollout, with one row per completion, as TRL shuffles and splits it.

    Args:
        traces: of the rollout.
        groups: `"region"` and `"image"`, `(B, P + T)` key weights over the padded sequence.
        completion_width: `T`.
        select, top_share: as the attention reward's.

    Returns:
        `objective_region` and `objective_image`, `(B, P)`; `objective_row_weights`, `(B, T)`, 0 throughout where there
        is no region or no token.
    """
    device = groups["region"].device
    row_weights = torch.zeros(len(traces), completion_width)
    for row, trace in enumerate(traces):
        if trace.has_region and len(trace):
            row_weights[row, : len(trace)] = torch.as_tensor(token_weights(trace.entropy, select, top_share))
    prompt_width = groups["region"].shape[1] - completion_width
    return {
        "objective_region": groups["region"][:, :prompt_width],
        "objective_image": groups["image"][:, :prompt_width],
        "objective_row_weights": row_weights.to(device),
    }


def _rows(inputs: dict[str, Any], reading: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`(B, R)` query rows that have a weight, in order, and their `(B, R)` weights: no other row keeps a graph."""
    weights = inputs["objective_row_weights"]
    count = max(1, int((weights > 0).sum(dim=1).max()))
    tokens = weights.topk(count, dim=1).indices.sort(dim=1).values
    first = inputs["prompt_ids"].shape[1] - (1 if reading == "deciding" else 0)
    return first + tokens, weights.gather(1, tokens)
