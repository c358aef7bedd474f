"""Exact attention masses of chosen rows from the queries and keys that a kernel receives, in bounded memory."""

from __future__ import annotations

import math

import torch


def read_masses(
    query: torch.Tensor,
    key: torch.Tensor,
    rows: torch.Tensor,
    weights: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float | None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    image_index: torch.Tensor | None = None,
    per_head: bool = False,
    byte_budget: int = 64 * 2**20,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`sum_k softmax(q K^T)[k] * w[k]` for the wanted rows, without a square matrix and in float32.

    Args:
        query: `(B, Hq, Q, D)` after rotary embedding (and q/k norm), as the kernel gets it.
        key: `(B, Hkv, K, D)`, not repeated; `Hq` is a multiple of `Hkv` (grouped-query attention).
        rows: `(R,)` or `(B, R)` int64 indices on the query axis.
        weights: `(B, K, G)` float32, one column per key group.
        mask: additive float32, broadcastable to `(B, H, R, K)`, or None.
        scaling: factor of the scores; None means `1 / sqrt(D)`.
        softcap: scores become `softcap * tanh(scores / softcap)` before the mask (Gemma2).
        sinks: `(Hq,)` learnable sink scores that take part in the softmax only (gpt-oss).
        image_index: `(B, N)` key positions whose attention is wanted one by one (for heat maps).
        per_head: keep heads apart instead of averaging them.
        byte_budget: rows are processed in chunks so that one block of scores stays below this.

    Returns:
        masses `(B, R, G)` and maps `(B, R, N)` or None; with `per_head`, `(B, Hq, R, G)` and `(B, Hq, R, N)`.
    """
    batch, heads, _, dim = query.shape
    kv_heads, num_keys = key.shape[1], key.shape[2]
    num_rows = rows.shape[-1]
    scaling = 1 / math.sqrt(dim) if scaling is None else scaling
    keys = key.float().transpose(2, 3)
    columns = torch.cat([weights.float(), weights.new_ones(batch, num_keys, 1)], dim=-1)[:, None]
    row_chunk = max(1, byte_budget // (4 * batch * heads * num_keys))
    masses, maps = [], []
    for start in range(0, num_rows, row_chunk):
        stop = min(start + row_chunk, num_rows)
        picked = _pick_rows(query, rows[..., start:stop]).float() * scaling
        # Heads of one key/value group share its keys: fold them into the row axis instead of repeating the keys.
        scores = torch.matmul(picked.reshape(batch, kv_heads, -1, dim), keys)
        scores = scores.view(batch, heads, stop - start, num_keys)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores + (mask if mask.shape[2] == 1 else mask[:, :, start:stop])
        peak = scores.detach().amax(dim=-1, keepdim=True)
        numerators = torch.exp(scores - peak)
        sums = torch.matmul(numerators, columns)  # the last column is the softmax denominator
        denominator = sums[..., -1:]
        if sinks is not None:
            denominator = denominator + torch.exp(sinks.float().view(1, -1, 1, 1) - peak)
        masses.append(_over_heads(sums[..., :-1] / denominator, per_head))
        if image_index is not None:
            index = image_index[:, None, None, :].expand(-1, heads, stop - start, -1)
            maps.append(_over_heads(numerators.gather(-1, index) / denominator, per_head))
    return torch.cat(masses, dim=-2), torch.cat(maps, dim=-2) if maps else None


def _pick_rows(query: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    if rows.dim() == 1:
        return query[:, :, rows]
    return query.gather(2, rows[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3]))


def _over_heads(values: torch.Tensor, per_head: bool) -> torch.Tensor:
    return values if per_head else values.mean(dim=1)
