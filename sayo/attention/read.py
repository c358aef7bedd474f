"""Exact attention masses of chosen rows from the queries and keys that a kernel receives, in bounded memory."""

import math
from collections.abc import Iterator

import torch

from sayo.attention.masks import RowMask, as_slice

CPU_BLOCK = 3 * 2**20
"""Bytes of one block of scores on a CPU: near the size of a core's cache, so that the passes over a block after its
product do not wait for memory, and large enough that the number of blocks does not count."""


def read_masses(
    query: torch.Tensor,
    key: torch.Tensor,
    rows: torch.Tensor,
    weights: torch.Tensor,
    mask: RowMask,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    image_index: torch.Tensor | None = None,
    per_head: bool = False,
    byte_budget: int = 64 * 2**20,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`sum_k softmax(q K^T)[k] * w[k]` for the wanted rows, without a square matrix and in float32.

    Scores are made block by block (a few rows of the heads that share keys), never for keys that no row of a block
    sees. Rows that see no key at all (padding) hold no meaningful value.

    Args:
        query: `(B, Hq, Q, D)` after rotary embedding (and q/k norm), as the kernel gets it.
        key: `(B, Hkv, K, D)`, not repeated; `Hq` is a multiple of `Hkv` (grouped-query attention).
        rows: `(R,)` or `(B, R)` int64 indices on the query axis, on the CPU.
        weights: `(B, K, G)` float32, one column per key group.
        mask: what each row sees.
        scaling: factor of the scores; None means `1 / sqrt(D)`.
        softcap: scores become `softcap * tanh(scores / softcap)` before the mask (Gemma2).
        sinks: `(Hq,)` (gpt-oss) or `(B, Hq, Q, 1)` (Inkling) sink scores that take part in the softmax only.
        image_index: `(B, N)` key positions whose attention is wanted one by one (for heat maps); positions outside
            the keys, as after a sliding cache moved on, get 0.
        per_head: keep heads apart instead of averaging them.
        byte_budget: upper bound of one block of scores (at least one row of one key/value head).

    Returns:
        masses `(B, R, G)` and maps `(B, R, N)` or None; with `per_head`, `(B, Hq, R, G)` and `(B, Hq, R, N)`.
    """
    batch, heads = query.shape[:2]
    scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    reader = _BlockReader(query, key, rows.shape[-1], scaling, softcap, sinks, byte_budget)
    masses, maps = [], []
    for sample in range(batch):
        # Contiguous along the keys, once: a product over strided keys packs them again for every block of rows.
        keys = key[sample].float().transpose(1, 2).contiguous()
        sample_rows = rows if rows.dim() == 1 else rows[sample]
        groups = _Groups(weights[sample].float())
        index = None if image_index is None else image_index[sample]
        blocks = [
            _join_heads(
                reader.read(sample, keys, block, mask.block(sample, block, query.device), groups, index),
                heads,
                per_head,
            )
            for block in sample_rows.split(reader.num_rows)
        ]
        masses.append(torch.cat([mass for mass, _ in blocks], dim=-2))
        if index is not None:
            maps.append(torch.cat([row_map for _, row_map in blocks], dim=-2))
    return torch.stack(masses), torch.stack(maps) if maps else None


def _join_heads(parts: Iterator, heads: int, per_head: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(masses, map) of one row block from those of its blocks of heads, `(h, r, G)` and `(h, r, N)`."""
    if not per_head:
        parts = ((mass.sum(0) / heads, None if row_map is None else row_map.sum(0) / heads) for mass, row_map in parts)
    masses, maps = zip(*parts, strict=True)
    combine = torch.cat if per_head else sum
    return combine(masses), None if maps[0] is None else combine(maps)


class _Groups:
    """Key weights of one sample, `(K, G)` kept as `(G, K)`, and the range of keys outside of which all are 0."""

    def __init__(self, weights: torch.Tensor):
        self.weights, self.start, self.stop = weights.t().contiguous(), 0, len(weights)
        if weights.device.type == "cpu":  # a GPU would have to be waited for
            some = weights.any(dim=1).nonzero()
            self.start, self.stop = (int(some[0]), int(some[-1]) + 1) if len(some) else (0, 0)

    def sums(self, numerators: torch.Tensor, start: int) -> torch.Tensor:
        """`(h, r, k)`, keys from `start` on -> `(h, r, G)`."""
        first = max(self.start, start)
        last = max(first, min(self.stop, start + numerators.shape[-1]))
        summed = numerators[..., first - start : last - start].flatten(0, 1)
        # Few columns from the left: (G, k) x (k, h r) is three times as fast on a CPU as its transpose.
        return torch.matmul(self.weights[:, first:last], summed.t()).t().view(*numerators.shape[:2], -1)


class _BlockReader:
    """Reads blocks of rows of one sample, some key/value heads at a time, in one scratch buffer."""

    def __init__(self, query, key, num_rows: int, scaling: float, softcap: float | None, sinks, byte_budget: int):
        self.query = query
        self.scaling, self.softcap, self.sinks = scaling, softcap, sinks
        if sinks is not None and sinks.dim() == 1:
            self.sinks = sinks[None, :, None, None].expand(*query.shape[:3], 1)
        self.kv_heads = key.shape[1]
        self.shared = query.shape[1] // self.kv_heads  # query heads per key/value head
        budget = min(byte_budget, CPU_BLOCK) if query.device.type == "cpu" else byte_budget
        row_bytes = 4 * self.shared * key.shape[2]
        self.num_heads = min(self.kv_heads, max(1, budget // (64 * row_bytes)))
        self.num_rows = max(1, budget // (row_bytes * self.num_heads))
        self.buffer = None
        if not torch.is_grad_enabled():  # autograd keeps every block; without it one buffer serves them all
            size = self.num_heads * self.shared * min(self.num_rows, num_rows) * key.shape[2]
            self.buffer = query.new_empty(size, dtype=torch.float32)

    def read(self, sample, keys, rows, visible, groups, index) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        start, partial, stop, mask = visible
        rows = as_slice(rows)
        picked = self.query[sample][:, rows]
        for first in range(0, self.kv_heads, self.num_heads):
            last = min(first + self.num_heads, self.kv_heads)
            heads = slice(first * self.shared, last * self.shared)
            head_mask = mask if mask is None or mask.shape[0] == 1 else mask[heads]
            sinks = None if self.sinks is None else self.sinks[sample, heads, rows].float()
            numerators, peak = self._numerators(
                picked[heads], keys[first:last, :, start:stop], partial - start, head_mask, sinks
            )
            denominator = numerators.sum(dim=-1, keepdim=True)
            if sinks is not None:
                denominator = denominator + torch.exp(sinks - peak)
            denominator = denominator.clamp(min=1)  # the peak alone makes 1; less where a row sees nothing
            row_map = None
            if index is not None:
                inside = (index >= start) & (index < stop)
                row_map = numerators[..., (index - start).clamp(0, max(stop - start - 1, 0))] if stop > start else 0
                row_map = row_map * inside / denominator
            yield groups.sums(numerators, start) / denominator, row_map

    def _numerators(self, query, keys, partial: int, mask, sinks) -> tuple[torch.Tensor, torch.Tensor]:
        """`exp(score - peak)`, `(h, r, k)`, and the peaks, `(h, r, 1)`; `keys` is `(h / shared, D, k)`, `mask` of the
        keys from `partial` on."""
        num_heads, num_rows, dim = query.shape
        # Heads of one key/value group share its keys: fold them into the row axis instead of repeating the keys.
        rows = (query.float() * self.scaling).reshape(num_heads // self.shared, -1, dim)
        shape = (*rows.shape[:2], keys.shape[2])
        out = None if self.buffer is None else self.buffer[: math.prod(shape)].view(shape)
        scores = torch.bmm(rows, keys, out=out).view(num_heads, num_rows, -1)
        if scores.shape[-1] == 0:
            return scores, scores.new_zeros(num_heads, num_rows, 1)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if mask is not None:
            part = scores[..., partial:]
            if mask.dtype == torch.bool:
                part.masked_fill_(~mask, torch.finfo(torch.float32).min)
            else:
                part.add_(mask)
        # A row that an additive mask hides fully has no peak: without a floor it would be NaN, and so would gradients.
        peak = scores.detach().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
        if sinks is not None:
            peak = torch.maximum(peak, sinks.detach())
        return scores.sub_(peak).exp_(), peak
