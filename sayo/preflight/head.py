"""The language model's head in TRL's fused form (trl/kernels/chunked_logprob.py): logits exist as one tile only.

With `n` scored tokens (completion rows on CUDA, all rows elsewhere), hidden size `D`, words `V`, a tile of
`min(n, 4096) x 32768` in the run's precision:

- kept for backward: a copy of the scored hidden states, `n x D`;
- backward: their float32 gradient `4nD`, its copy in their dtype, the float32 gradient of the head's weights `4VD`
  and its copy where the head learns, and the tile;
- without Triton the tile is folded by plain torch: 3 float32 tiles forward and 7.25 backward come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sayo.preflight.setting import Setting

TOKEN_CHUNK, VOCABULARY_CHUNK = 4096, 32768
TORCH_TILES_FORWARD, TORCH_TILES_BACKWARD = 3, 7.25


@dataclass(frozen=True)
class HeadBytes:
    """hidden: kept from forward to backward; forward, backward: most that is live beyond that."""

    hidden: int
    forward: int
    backward: int


def head_bytes(text: Any, setting: Setting, length: int, learns_head: bool, itemsize: int) -> HeadBytes:
    """Bytes of scoring one micro-batch of sequences of `length` tokens; `itemsize` is that of the weights."""
    itemsize = 2 if setting.bf16 else itemsize
    rows = length - 1 if setting.device == "cpu" or not setting.completion_tokens else setting.completion_tokens
    scored = setting.micro_batch * rows
    tokens = min(scored, TOKEN_CHUNK)
    words = min(text.vocab_size, VOCABULARY_CHUNK)
    buffer = tokens * VOCABULARY_CHUNK * itemsize
    tile = tokens * words * 4 if setting.device == "cpu" else 0
    hidden = scored * text.hidden_size * itemsize
    gradient = scored * text.hidden_size * 4 + (hidden if itemsize < 4 else 0)
    weights = text.vocab_size * text.hidden_size * (4 + (itemsize if itemsize < 4 else 0)) if learns_head else 0
    return HeadBytes(
        hidden,
        buffer + round(TORCH_TILES_FORWARD * tile),
        buffer + round(TORCH_TILES_BACKWARD * tile) + gradient + weights,
    )
