"""Attention as an objective: differentiable losses of attention masses, to be added to a trainer's own loss.

Masses come from `AttentionCapture.reading` with gradients on: `sum_k A[q, k] * w[k]` of a key group whose weights sum
to `size`, so `mass / size` is the attention per key.
"""

from __future__ import annotations

import torch


def region_objective(
    region: torch.Tensor, image: torch.Tensor, row_weights: torch.Tensor, eps: float = 1e-8
) -> torch.Tensor:
    """`-mean tanh(log((a + eps) / (v + eps)))`: SAYO's region reward, descended instead of sampled.

    The same rows and weights as the reward: per sample, `a` and `v` are pooled over its rows before the ratio is taken
    (methods.md 4.2). Samples without any row weight (no region, empty response) take no part.

    Args:
        region: `(B, R)` attention per region token of each row (mean over heads and layers).
        image: `(B, R)` attention per visual token.
        row_weights: `(B, R)`, each row sums to 1, or is 0 throughout for a sample that takes no part.
        eps: floor of both means, as in the reward.

    Returns:
        a scalar in (-1, 1); 0 with a graph when no sample takes part, so that every rank runs the same backward.
    """
    takes_part = row_weights.sum(dim=1) > 0
    pooled_region = (region * row_weights).sum(dim=1) + eps
    pooled_image = (image * row_weights).sum(dim=1) + eps
    score = torch.tanh(torch.log(pooled_region) - torch.log(pooled_image))
    return -(score * takes_part).sum() / takes_part.sum().clamp(min=1)


def enhance_loss(
    masses: torch.Tensor, sizes: torch.Tensor, query_mask: torch.Tensor, eps: float = 0.0
) -> torch.Tensor:
    """AVAR's `L_enh`: minus the log of the mean attention from the queries to the image (arXiv 2603.03825).

    The mean over queries and keys stands inside the logarithm; means over heads, samples and layers outside.

    Args:
        masses: `(B, L, H, R)` attention of each row on the group.
        sizes: `(B,)` number of keys in the group; a sample with 0 takes no part.
        query_mask: `(B, R)` 1 for rows that count as queries; a sample without any takes no part.
        eps: added inside the logarithm (0 in the paper, 1e-6 in the release).
    """
    return -_mean_log_attention(masses, sizes, query_mask, eps)


def suppress_loss(
    masses: torch.Tensor, sizes: torch.Tensor, query_mask: torch.Tensor, eps: float = 1e-6
) -> torch.Tensor:
    """AVAR's `L_sup`: the log of the mean attention from the queries to the system prompt; arguments as above."""
    return _mean_log_attention(masses, sizes, query_mask, eps)


def _mean_log_attention(masses, sizes, query_mask, eps):
    takes_part = (sizes > 0) & (query_mask.sum(dim=1) > 0)
    queries = query_mask.to(masses.dtype)[:, None, None]
    mean = (masses * queries).sum(dim=-1) / (query_mask.sum(dim=1) * sizes).clamp(min=1)[:, None, None]
    # log(1) = 0 for samples that take no part: no gradient, and no NaN from log(0)
    logs = torch.log(torch.where(takes_part[:, None, None], mean + eps, torch.ones_like(mean)))
    return logs.mean(dim=(1, 2)).sum() / takes_part.sum().clamp(min=1)
