"""Images with a random share of their visual tokens blanked: what VPPO measures a token's dependency with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch


def blank_patches(inputs: Mapping[str, Any], config: Any, share: float = 0.5) -> dict[str, Any]:
    """Model inputs whose `pixel_values` are 0 (the processor's mean colour) on random patches.

    VPPO (arXiv 2510.09285) blanks half of the 14-pixel patches, so that nearly every visual token stays partly
    visible. Here whole visual tokens disappear: `spatial_merge_size` squared consecutive rows of a packed image (Qwen,
    GLM), squares of two vision patches of an ordinary one. The mask comes from torch's global generator: another one
    for every rollout, and the same one again after a resume.

    Args:
        inputs: of the model; without `pixel_values` nothing changes.
        config: the model's.
        share: probability that a token is blanked.
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
