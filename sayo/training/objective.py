"""Attention as an objective: differentiable losses of attention, and the region objective added to the GRPO loss.

Masses come from `AttentionCapture.reading` with gradients on: `sum_k A[q, k] * w[k]` of a key group whose weights sum
to `size`, so `mass / size` is the attention per key.

The region reward samples responses and pays those that looked right; the region objective descends the same score
directly, through the queries and keys of the layers that are read. Rows and weights are the reward's: fixed when the
rollout is scored, carried to the loss with the rollout.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch.nn.functional import pad

from sayo.attention import AttentionTrace
from sayo.metrics.region import token_weights

SMOOTHING = 0.1
"""Share of `region_divergence`'s target that lies on all visual tokens alike."""


def region_objective(
    region: torch.Tensor, image: torch.Tensor, row_weights: torch.Tensor, eps: float = 1e-8
) -> torch.Tensor:
    """`-mean tanh(log((a + eps) / (v + eps)))`: SAYO's region reward, descended instead of sampled.

    Per sample, `a` and `v` are pooled over its rows before the ratio is taken (arXiv 2602.08241).

    Args:
        region: `(B, R)` attention per region token of each row (mean over heads and layers).
        image: `(B, R)` attention per visual token.
        row_weights: `(B, R)`, each row sums to 1; all 0 (no region, empty response): the sample takes no part.
        eps: floor of both means, as in the reward.

    Returns:
        a scalar in (-1, 1); 0 with a graph when no sample takes part, so that every rank runs the same backward.
    """
    takes_part = row_weights.sum(dim=1) > 0
    pooled_region = (region * row_weights).sum(dim=1) + eps
    pooled_image = (image * row_weights).sum(dim=1) + eps
    score = torch.tanh(torch.log(pooled_region) - torch.log(pooled_image))
    return -(score * takes_part).sum() / takes_part.sum().clamp(min=1)


def region_divergence(
    attention: torch.Tensor, target: torch.Tensor, image: torch.Tensor, row_weights: torch.Tensor, eps: float = 1e-8
) -> torch.Tensor:
    """`mean KL(target || attention)` over the visual tokens, in the style of EASE (arXiv 2605.30912).

    Each is normalised over the image; the attention is pooled over rows first. No code of EASE was found, so the form
    of the smoothing is ours: `SMOOTHING` of the target is spread over all visual tokens, the rest over the region.

    Args:
        attention: `(B, R, N)` attention of each row on each visual token (mean over heads and layers).
        target: `(B, N)` weight of the region on each of them.
        image: `(B, N)` 1 for a visual token, 0 for padding.
        row_weights: `(B, R)` as of `region_objective`.
        eps: floor of an attention inside the logarithm.

    Returns:
        a scalar, not negative; 0 with a graph when no sample takes part.
    """
    takes_part = row_weights.sum(dim=1) > 0
    pooled = (attention * row_weights[..., None]).sum(dim=1) * image + eps
    logs = torch.log(pooled / pooled.sum(dim=1, keepdim=True))
    parts = [part / part.sum(dim=1, keepdim=True).clamp(min=eps) for part in (target, image)]
    target = (1 - SMOOTHING) * parts[0] + SMOOTHING * parts[1]
    divergences = (torch.xlogy(target, target) - target * logs).sum(dim=1)
    return (divergences * takes_part).sum() / takes_part.sum().clamp(min=1)


def mean_log_attention(
    masses: torch.Tensor, sizes: torch.Tensor, query_mask: torch.Tensor, eps: float = 0.0
) -> torch.Tensor:
    """Log of the mean attention from the queries to a key group, as in AVAR (arXiv 2603.03825).

    `L_enh` is minus that of the image, `L_sup` that of the system prompt. The mean over queries and keys stands inside
    the logarithm; means over heads, samples and layers outside.

    Args:
        masses: `(B, L, H, R)` attention of each row on the group.
        sizes: `(B,)` number of keys in the group; a sample with 0 takes no part.
        query_mask: `(B, R)` 1 for rows that count as queries; a sample without any takes no part.
        eps: added inside the logarithm.
    """
    takes_part = (sizes > 0) & (query_mask.sum(dim=1) > 0)
    queries = query_mask.to(masses.dtype)[:, None, None]
    mean = (masses * queries).sum(dim=-1) / (query_mask.sum(dim=1) * sizes).clamp(min=1)[:, None, None]
    # log(1) = 0 for samples that take no part: no gradient, and no NaN from log(0)
    logs = torch.log(torch.where(takes_part[:, None, None], mean + eps, torch.ones_like(mean)))
    return logs.mean(dim=(1, 2)).sum() / takes_part.sum().clamp(min=1)


class OpenCaptures:
    """Mixin in front of a TRL trainer: what a loss enters in `_captures` stays open until its backward pass is done.

    Gradient checkpointing runs the layers again during the backward pass.
    """

    _captures: ExitStack | None = None

    def training_step(self, *args, **kwargs):
        with ExitStack() as self._captures:
            return super().training_step(*args, **kwargs)


class RegionObjective(OpenCaptures):
    """Mixin in front of a TRL GRPO trainer: adds `objective_weight` times the objective to every training loss.

    The objective is `region_objective` or `region_divergence` (`objective_form`). Logs `objective/region`, the region
    score of the current policy on its rollouts (higher is better), or `objective/divergence` (lower is better), and
    `objective/weight`.
    """

    @property
    def objective_weight(self) -> float:
        """Weight at the current step: linear warm-up, then constant. A function of the step alone, as resume needs."""
        warmup = self.args.objective_warmup_steps
        return self.args.objective_weight * min(1.0, (self.state.global_step + 1) / max(1, warmup))

    def _compute_loss(self, model, inputs):
        weight = self.objective_weight
        if weight == 0 or not model.training:
            return super()._compute_loss(model, inputs)
        tokens, row_weights = weighted_rows(inputs["objective_row_weights"])
        rows = tokens + inputs["prompt_ids"].shape[1] - (1 if self.args.objective_rows == "deciding" else 0)
        padding = (0, inputs["completion_ids"].shape[1])
        groups = {name: pad(inputs[f"objective_{name}"], padding) for name in ("region", "image")}
        of_tokens = self.args.objective_form == "divergence"
        keys, is_image = weighted_rows(groups["image"]) if of_tokens else (None, None)
        reading = self._capture.reading(rows.cpu(), groups, keys, gradients=True)
        captured = self._captures.enter_context(reading)
        loss = super()._compute_loss(model, inputs)
        if of_tokens:
            target = groups["region"].gather(1, keys)
            objective = region_divergence(captured.maps.mean(dim=1), target, is_image, row_weights)
            name, value = "objective/divergence", objective
        else:
            per_key = {
                name: captured.masses[name].mean(dim=1) / group.sum(dim=1, keepdim=True).clamp(min=1e-6)
                for name, group in groups.items()
            }
            objective = region_objective(per_key["region"], per_key["image"], row_weights)
            name, value = "objective/region", -objective
        count = (row_weights.sum(dim=1) > 0).sum()
        total = self.accelerator.reduce(torch.stack([value.detach() * count, count.float()]), reduction="sum")
        if total[1] > 0:
            self._metrics["train"][name].append((total[0] / total[1]).item())
        self._metrics["train"]["objective/weight"].append(weight)
        return loss + weight * objective / self.current_gradient_accumulation_steps


def objective_inputs(
    traces: Sequence[AttentionTrace],
    groups: dict[str, torch.Tensor],
    prompt_width: int,
    completion_mask: torch.Tensor,
    select: str,
    top_share: float,
    takes_part: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """What the loss needs of a scored rollout, with one row per completion, as TRL shuffles and splits it.

    Args:
        groups: `"region"` and `"image"`, key weights over the padded sequence; the prompt is `prompt_width` of it.
        completion_mask: `(B, T)`, 0 on what takes no part in the loss.
        select, top_share: as the attention reward's.
        takes_part: `(B,)` bool: whose attention is trained (`objective_gate`).

    Returns:
        `objective_region` and `objective_image`, `(B, P)`; `objective_row_weights`, `(B, T)`, 0 throughout where there
        is no region or no token, or the completion takes no part.
    """
    row_weights = torch.zeros(completion_mask.shape)
    for row, trace in enumerate(traces):
        if trace.has_region and len(trace):
            weights = torch.as_tensor(token_weights(trace.entropy, select, top_share), dtype=row_weights.dtype)
            row_weights[row, trace.positions] = weights
    return {
        "objective_region": groups["region"][:, :prompt_width],
        "objective_image": groups["image"][:, :prompt_width],
        "objective_row_weights": row_weights.to(completion_mask.device) * completion_mask * takes_part[:, None],
    }


def weighted_rows(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions that have a weight, in order, so that no other row keeps a graph.

    Args:
        weights: `(B, S)`, not negative.

    Returns:
        `(B, R)` int64 positions, R that of the sample with most (at least 1), and their `(B, R)` weights; 0 where a
        sample has fewer.
    """
    count = max(1, int((weights > 0).sum(dim=1).max()))
    positions = weights.topk(count, dim=1).indices.sort(dim=1).values
    return positions, weights.gather(1, positions)
