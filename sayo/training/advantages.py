"""Advantage shapers: which tokens of a completion its advantage is paid to.

TRL's advantages are one number per completion. Its loss also takes `(B, T)`, so a shaper, which a recipe names by
dotted path, may spread that number over the tokens; loss types, clipping and importance correction stay TRL's. A
shaper is linear in the advantages (it says how they are spread, not how large they are), which is what lets a run log
each reward's share of the gradient.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sayo.attention.trace import AttentionTrace, Rows
from sayo.metrics.perception import anchor_weights, dependency_filter, trajectory_scale
from sayo.metrics.region import Select, region_score, tas, token_weights
from sayo.metrics.sinks import sink_free_mass, sink_tokens


@dataclass(frozen=True)
class ShapingBatch:
    """What a shaper may look at: the completions of one rank.

    Attributes:
        advantages: `(B,)` TRL's advantages.
        parts: reward name -> `(B,)`; the share of each reward in the advantages. They sum to `advantages`.
        scales: reward name -> `(B,)`; by how much the advantage rises when that reward rises by 1.
        paid: reward name -> `(B,)` bool; whether the reward applies, and no gate keeps it back.
        completion_mask: `(B, T)`.
        dependency: computes `(B, T)` how much each token depends on the image (VPPO's S_t; one more forward pass).
        gather: concatenates a tensor over all ranks.
        group_mean: from `(B, W)` to the mean over each completion's group, on whatever ranks it is; narrower ranks
            are continued by their last column.
    """

    advantages: torch.Tensor
    parts: Mapping[str, torch.Tensor]
    scales: Mapping[str, torch.Tensor]
    paid: Mapping[str, torch.Tensor]
    completion_mask: torch.Tensor
    traces: Sequence[AttentionTrace]
    dependency: Callable[[], torch.Tensor]
    gather: Callable[[torch.Tensor], torch.Tensor]
    group_mean: Callable[[torch.Tensor], torch.Tensor]


AdvantageShaper = Callable[[ShapingBatch], torch.Tensor]


def causal_credit(
    batch: ShapingBatch,
    reward: str = "attention",
    rows: Rows = "deciding",
    select: Select = "top_entropy",
    top_share: float = 0.3,
    positive: bool = False,
) -> torch.Tensor:
    """`(B, T)`: of an attention reward, a token is paid what the rows that it could influence earned: a reward-to-go.

    Row `i` contributes its weight times its own score. What rows contributed that token `t` could not influence (those
    before it, and under `deciding` the row that chose it) is taken out of the reward; the rest is compared with the
    group's mean at the same position. As these contributions do not depend on the token, the expected gradient stays
    that of the reward (exactly if the weights do not depend on later tokens either: `select="all"`); what falls away
    is noise. A completion that has ended counts at later positions with all of its contributions. Where they vary
    more within the group than the rewards do, they set the scale, so that no token is paid a blown-up advantage. All
    other rewards are paid to every token.

    Args:
        reward: name of the attention reward in the recipe (KeyError if it has none of that name); `rows`, `select`,
            `top_share` and `positive` must be that reward's.
    """
    if reward not in batch.parts:
        raise KeyError(f"causal_credit pays out the reward {reward!r}, but the recipe has {sorted(batch.parts)}")
    mask = batch.completion_mask.float()
    earned = torch.zeros(len(mask), mask.shape[1] + 1, dtype=torch.float64)  # [:, t + 1]: by the row of token t
    for index, trace in enumerate(batch.traces):
        if batch.paid[reward][index] and len(trace) and trace.has_region:
            scores = _row_scores(trace, rows, select, top_share, positive)
            earned[index, trace.positions + 1] = torch.from_numpy(scores)
    earlier = earned.cumsum(dim=1).to(mask)[:, 1 if rows == "deciding" else 0 :]  # the last column: all rows
    deviation = earlier - batch.group_mean(earlier)
    spread = batch.group_mean(deviation.square()).amax(dim=1, keepdim=True).sqrt()
    deviation = deviation[:, : mask.shape[1]]
    scale, attention = batch.scales[reward][:, None], batch.parts[reward][:, None]
    shrink = (scale.abs() * spread).clamp(min=1)
    return (batch.advantages[:, None] - attention + (attention - scale * deviation) / shrink) * mask


def _row_scores(trace: AttentionTrace, rows: Rows, select: Select, top_share: float, positive: bool) -> np.ndarray:
    """`(T,)`: the weight of each row in the reward times the score that it would have alone."""
    region, image = (trace.mean(group, rows).astype(np.float64).mean(axis=0) for group in ("region", "image"))
    return token_weights(trace.entropy, select, top_share) * (tas if positive else region_score)(region, image)


def token_perception(batch: ShapingBatch, share: float = 0.4, low: float = 0.9) -> torch.Tensor:
    """`(B, T)`: VPPO (arXiv 2510.09285). Only the tokens that depend on the image learn, on scaled trajectories.

    Token filter: the `share` most dependent tokens of each response. Trajectory scale: from `low` upwards with the
    mean dependency, 1 on average over *all* ranks and micro-batches of the step (the release takes each rank's own).
    Completions without a token take no part in it.
    """
    dependency = batch.dependency().float().cpu().numpy()
    lengths = batch.completion_mask.sum(dim=1).tolist()
    responses = [row[:length] for row, length in zip(dependency, lengths, strict=True)]
    means = [float(row.mean()) if len(row) else math.nan for row in responses]
    everyone = batch.gather(torch.tensor(means, device=batch.advantages.device)).cpu().numpy()
    everyone = np.sort(everyone[~np.isnan(everyone)])
    # The scale is a straight line in the mean dependency, so those of this rank are interpolated on it.
    scales = np.interp(means, everyone, trajectory_scale(everyone, low)).tolist() if len(everyone) else means
    shaped = torch.zeros_like(batch.completion_mask, dtype=torch.float32)
    for index, row in enumerate(responses):
        keep = torch.as_tensor(dependency_filter(row, share), device=shaped.device)
        shaped[index, : len(row)] = keep * batch.advantages[index] * scales[index]
    return shaped


def perceptual_anchors(
    batch: ShapingBatch, low: float = 0.5, high: float = 1.5, sink_share: float = 0.02, min_tokens: int = 8
) -> torch.Tensor:
    """`(B, T)`: "AT-RL-style" (arXiv 2602.11455 has no public code; this is a reconstruction).

    Tokens whose deciding row looks more at the image, sinks left out, get more of the advantage; 1 on average within a
    response. Needs traces with maps. Responses shorter than `min_tokens` are left as they are.
    """
    shaped = batch.advantages[:, None] * batch.completion_mask.float()
    for index, trace in enumerate(batch.traces):
        if len(trace) < min_tokens or trace.maps is None or trace.maps.shape[-1] == 0:
            continue
        maps = trace.map("deciding").mean(axis=0)  # mean over layers: (T, N)
        connectivity = sink_free_mass(maps, sink_tokens(maps, sink_share))
        weights = torch.as_tensor(anchor_weights(connectivity, low=low, high=high), dtype=torch.float32)
        shaped[index, trace.positions] *= weights.to(shaped.device)
    return shaped


perceptual_anchors.needs_maps = True  # the trainer reads the attention on every visual token for it


def blank_patches(inputs: Mapping[str, Any], config: Any, share: float = 0.5) -> dict[str, Any]:
    """Model inputs whose `pixel_values` are 0 (the processor's mean colour) on random patches.

    VPPO (arXiv 2510.09285) blanks half of the 14-pixel patches, so that nearly every visual token stays partly
    visible. Here whole visual tokens disappear: `spatial_merge_size` squared consecutive rows of a packed image (Qwen,
    GLM), squares of two vision patches of an ordinary one. The mask comes from torch's global generator: another one
    for every rollout, and the same one again after a resume. `share` is the probability that a token is blanked;
    without `pixel_values` nothing changes.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None:
        return dict(inputs)
    vision = config.vision_config
    if pixels.dim() == 2:  # (patches, values), the patches of one visual token in a row
        tokens = getattr(vision, "spatial_merge_size", 1) ** 2
        blank = torch.rand(math.ceil(len(pixels) / tokens)) < share
        blank = blank.repeat_interleave(tokens)[: len(pixels), None]
    elif pixels.dim() == 3:  # (images, patches, values)
        blank = (torch.rand(pixels.shape[:2]) < share)[..., None]
    else:  # (..., channels, height, width)
        patch = vision.patch_size
        cell = 2 * (patch if isinstance(patch, int) else max(patch))
        height, width = pixels.shape[-2:]
        blank = torch.rand(*pixels.shape[:-3], 1, math.ceil(height / cell), math.ceil(width / cell)) < share
        blank = blank.repeat_interleave(cell, dim=-2).repeat_interleave(cell, dim=-1)[..., :height, :width]
    return {**inputs, "pixel_values": pixels.masked_fill(blank.to(pixels.device), 0.0)}
