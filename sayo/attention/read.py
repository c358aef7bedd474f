"""Exact attention masses of chosen rows from the queries and keys that a kernel receives, in bounded memory."""

import math
from collections.abc import Iterator

import torch
from torch import nn

from sayo.attention.masks import RowMask, Visible, as_slice

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
    reader = _BlockReader(query, key, rows.shape[-1], scaling, softcap, sinks, byte_budget)
    masses, maps = [], []
    for sample in range(len(query)):
        # Contiguous along the keys, once: a product over strided keys packs them again for every block of rows.
        keys = key[sample].float().transpose(1, 2).contiguous()
        groups = weights[sample].float().t().contiguous()
        index = None if image_index is None else image_index[sample]
        blocks = [
            _summed(reader.attention(sample, keys, block, visible, per_head), visible, groups, index)
            for block in (rows if rows.dim() == 1 else rows[sample]).split(reader.num_rows)
            for visible in [mask.block(sample, block, query.device)]
        ]
        masses.append(torch.cat([mass for mass, _ in blocks], dim=-2))
        if index is not None:
            maps.append(torch.cat([row_map for _, row_map in blocks], dim=-2))
    return torch.stack(masses), torch.stack(maps) if maps else None


def _summed(parts: Iterator[torch.Tensor], visible: Visible, groups: torch.Tensor, index: torch.Tensor | None):
    """(masses, map) of a block of rows, `(h, r, G)` and `(h, r, N)`, from its attention `(h, r, k)` in parts of heads.

    `groups` is `(G, K)`; a part may be overwritten by the next.
    """
    start, _, stop, _ = visible
    num_keys, masses, maps = groups.shape[1], [], []
    for part in parts:
        # Few columns from the left: (G, k) x (k, h r) is three times as fast on a CPU as its transpose.
        summed = torch.matmul(groups[:, start:stop], part.flatten(0, -2).t()).t()
        masses.append(summed.view(*part.shape[:-1], -1))
        if index is not None:
            inside = (index >= 0) & (index < num_keys)
            every = nn.functional.pad(part, (start, num_keys - stop))
            maps.append(every[..., index.clamp(0, num_keys - 1)] * inside)
    return torch.cat(masses), torch.cat(maps) if maps else None


class _BlockReader:
    """Attention of blocks of rows of one sample, some key/value heads at a time, in one scratch buffer."""

    def __init__(self, query, key, num_rows: int, scaling: float | None, softcap: float | None, sinks, byte_budget):
        self.query, self.softcap, self.sinks = query, softcap, sinks
        self.scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
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

    def attention(self, sample: int, keys, rows, visible: Visible, per_head: bool) -> Iterator[torch.Tensor]:
        """`(h, r, k)` of some heads after others, or the mean of all, `(r, k)`; of the keys from start to stop."""
        start, partial, stop, mask = visible
        rows = as_slice(rows)
        picked, total = self.query[sample][:, rows], 0
        for first in range(0, self.kv_heads, self.num_heads):
            last = min(first + self.num_heads, self.kv_heads)
            heads = slice(first * self.shared, last * self.shared)
            head_mask = mask if mask is None or mask.shape[0] == 1 else mask[heads]
            sinks = None if self.sinks is None else self.sinks[sample, heads, rows].float()
            part = self._softmax(picked[heads], keys[first:last, :, start:stop], partial - start, head_mask, sinks)
            if per_head:
                yield part
            else:
                total = total + part.sum(dim=0)
        if not per_head:
            yield total / self.query.shape[1]

    def _softmax(self, query, keys, partial: int, mask, sinks) -> torch.Tensor:
        """`(h, r, k)`; `keys` is `(h / shared, D, k)`, `mask` of the keys from `partial` on."""
        num_heads, num_rows, dim = query.shape
        # Heads of one key/value group share its keys: fold them into the row axis instead of repeating the keys.
        rows = (query.float() * self.scaling).reshape(num_heads // self.shared, -1, dim)
        shape = (*rows.shape[:2], keys.shape[2])
        out = None if self.buffer is None else self.buffer[: math.prod(shape)].view(shape)
        scores = torch.bmm(rows, keys, out=out).view(num_heads, num_rows, -1)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if mask is not None:  # added: filling by a bool costs thirty times as much on a CPU
            hidden = torch.finfo(torch.float32).min  # -inf throughout a row would be NaN, and so would all gradients
            mask = torch.where(mask, 0.0, hidden) if mask.dtype == torch.bool else mask
            scores[..., partial:].add_(mask.float().clamp(min=hidden))
        if sinks is not None:
            return torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]
        return torch.softmax(scores, dim=-1, out=None if self.buffer is None else scores)
