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
from sayo.metrics.region import Select, token_weights
from sayo.metrics.sinks import sink_free_mass, sink_tokens


@dataclass(frozen=True)
class ShapingBatch:
    """What a shaper may look at: the completions of one rank.

    Attributes:
        advantages: `(B,)` TRL's advantages.
        parts: reward name -> `(B,)`; the share of each reward in the advantages. They sum to `advantages`.
        completion_mask: `(B, T)`.
        dependency: computes `(B, T)` how much each token depends on the image (VPPO's S_t; one more forward pass).
        gather: concatenates a tensor over all ranks.
    """

    advantages: torch.Tensor
    parts: Mapping[str, torch.Tensor]
    completion_mask: torch.Tensor
    traces: Sequence[AttentionTrace]
    dependency: Callable[[], torch.Tensor]
    gather: Callable[[torch.Tensor], torch.Tensor]


AdvantageShaper = Callable[[ShapingBatch], torch.Tensor]


def causal_credit(
    batch: ShapingBatch,
    reward: str = "attention",
    rows: Rows = "deciding",
    select: Select = "top_entropy",
    top_share: float = 0.3,
) -> torch.Tensor:
    """`(B, T)`: what a row's attention earned is paid only to the tokens that the row could see.

    The reward pools rows with weights that sum to 1; token `t` gets the weight of the rows at or behind it. Under
    `deciding`, the row of token `i` has seen the tokens before `i`, so the choice of token `i` itself earns nothing
    by it; under `of_token` it does. All other rewards are paid to every token.

    Args:
        reward: name of the attention reward in the recipe (KeyError if it has none of that name); `rows`, `select` and
            `top_share` must be that reward's.
    """
    if reward not in batch.parts:
        raise KeyError(f"causal_credit pays out the reward {reward!r}, but the recipe has {sorted(batch.parts)}")
    share = torch.zeros_like(batch.completion_mask, dtype=torch.float32)
    for index, trace in enumerate(batch.traces):
        if len(trace):
            weights = torch.as_tensor(token_weights(trace.entropy, select, top_share), dtype=torch.float32)
            behind = weights.flip(0).cumsum(0).flip(0)  # weight of the rows of tokens t, t + 1, ...
            earned = behind - weights if rows == "deciding" else behind
            share[index, trace.positions] = earned.to(share.device)
    attention = batch.parts[reward]
    return ((batch.advantages - attention)[:, None] + attention[:, None] * share) * batch.completion_mask


def token_perception(batch: ShapingBatch, share: float = 0.4, low: float = 0.9) -> torch.Tensor:
    """`(B, T)`: VPPO (arXiv 2510.09285). Only the tokens that depend on the image learn, on scaled trajectories.

    Token filter: the `share` most dependent tokens of each response. Trajectory scale: from `low` upwards with the
    mean dependency, 1 on average over *all* ranks and micro-batches of the step (the release takes each rank's own).
    """
    dependency = batch.dependency().float().cpu().numpy()
    lengths = batch.completion_mask.sum(dim=1).tolist()
    responses = [row[:length] for row, length in zip(dependency, lengths, strict=True)]
    means = torch.tensor([float(row.mean()) if len(row) else 0.0 for row in responses], device=batch.advantages.device)
    everyone = np.sort(batch.gather(means).cpu().numpy())
    # The scale is a straight line in the mean dependency, so those of this rank are interpolated on it.
    scales = np.interp(means.cpu().numpy(), everyone, trajectory_scale(everyone, low)).tolist()
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
