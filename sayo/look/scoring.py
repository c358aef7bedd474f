"""From a response to its attention: one pass over the response only, on top of the keys that generation left."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from sayo.attention import AttentionCapture
from sayo.attention.groups import vision_token_ids
from sayo.attention.layers import LayerSpec

HEAD_VALUES = 12_000_000
"""Values of head-by-head maps worth reading: about what fits into a page (see `sayo.look.payload`)."""
LOGIT_ROWS = 64  # rows of logits that become a float32 distribution at once


@dataclass(frozen=True)
class Generated:
    """`ids` `(1, T)` and, if the model just sampled them, the cache of prompt and response."""

    ids: torch.Tensor
    cache: Any


@torch.no_grad()
def generate(
    model: nn.Module, processor: Any, inputs: Mapping[str, torch.Tensor], max_new_tokens: int, temperature: float
) -> Generated:
    """One completion, up to and including its end-of-sequence token; greedy where the temperature is 0."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    output = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        suppress_tokens=vision_token_ids(model.config),
        pad_token_id=processor.tokenizer.pad_token_id,
        return_dict_in_generate=True,
        **(sampling or {"do_sample": False}),
    )
    return Generated(output.sequences[:, inputs["input_ids"].shape[1] :], output.past_key_values)


@torch.no_grad()
def read_response(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    made: Generated,
    groups: dict[str, torch.Tensor],
    image_index: torch.Tensor,
    layers: LayerSpec,
    temperature: float,
) -> dict[str, Any]:
    """Attention and entropy of the response, in one pass, as the fields of a `Look`.

    All layers are read heads averaged; the heads are kept apart for as many of the last layers as
    `HEAD_VALUES` allows. No array is larger than rows x keys.
    """
    length = made.ids.shape[1]
    every = AttentionCapture(model, layers=layers).layers
    heads = model.config.get_text_config().num_attention_heads
    per_layer = heads * (length + 1) * image_index.shape[1]
    split = len(every) - min(len(every), HEAD_VALUES // max(per_layer, 1))
    # Two readings share the one pass; a layer is in one of them only.
    captures = [
        AttentionCapture(model, layers=list(part), per_head=per_head)
        for part, per_head in ((every[:split], False), (every[split:], True))
        if part
    ]
    arguments, rows = _pass(inputs, made)
    with ExitStack() as stack:
        readings = [stack.enter_context(capture.reading(rows, groups, image_index)) for capture in captures]
        logits = model(**arguments, logits_to_keep=length + 1).logits[0, -length - 1 : -1]
    shares = {name: [_array(reading.masses[name]) for reading in readings] for name in groups}
    maps = [_array(reading.maps) for reading in readings]
    has_heads, has_flat = split < len(every), split > 0
    none = np.zeros((0, heads, length + 1, image_index.shape[1]), dtype=np.float32)
    return {
        "entropy": _entropy(logits, temperature or 1.0),
        "layers": every,
        "shares": {name: _heads_averaged(parts, has_flat) for name, parts in shares.items()},
        "maps": _heads_averaged(maps, has_flat),
        "head_layers": every[split:],
        "head_shares": {name: parts[-1] if has_heads else none[..., 0] for name, parts in shares.items()},
        "head_maps": maps[-1] if has_heads else none,
    }


def _pass(inputs: Mapping[str, torch.Tensor], made: Generated) -> tuple[dict[str, Any], torch.Tensor]:
    """Arguments of the forward pass, and the rows to read on its query axis (last prompt token, then the response).

    The cache of generation already holds the keys of the prompt: only the last prompt token and the response run
    again. Without a cache that can be cut (a given response, sliding windows, linear attention, prompts that attend
    in both directions) everything runs.
    """
    device, length = made.ids.device, made.ids.shape[1]
    prompt_length = inputs["input_ids"].shape[1]
    if _can_cut(made.cache) and "token_type_ids" not in inputs:
        made.cache.crop(prompt_length - 1 - made.cache.get_seq_length())
        ids = torch.cat([inputs["input_ids"][:, -1:], made.ids], dim=1)
        # No attention mask: nothing is padded, and Qwen's rotary positions follow from the length of the cache.
        return {"input_ids": ids, "past_key_values": made.cache}, torch.arange(length + 1, device=device)
    arguments = dict(inputs)
    arguments["input_ids"] = torch.cat([inputs["input_ids"], made.ids], dim=1)
    arguments["attention_mask"] = torch.ones_like(arguments["input_ids"])
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in arguments:  # the response is text
            arguments[name] = nn.functional.pad(arguments[name], (0, length))
    rows = torch.arange(prompt_length - 1, prompt_length + length, device=device)
    return {**arguments, "use_cache": False}, rows


def _can_cut(cache: Any) -> bool:
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def _array(values: torch.Tensor) -> np.ndarray:
    return values[0].float().cpu().numpy()


def _heads_averaged(parts: list[np.ndarray], first_is_flat: bool) -> np.ndarray:
    flat = [part if index == 0 and first_is_flat else part.mean(axis=1) for index, part in enumerate(parts)]
    return np.concatenate(flat)


def _entropy(logits: torch.Tensor, temperature: float) -> np.ndarray:
    """`(T,)` float32, nats, of the distributions that chose the tokens."""
    parts = []
    for rows in logits.split(LOGIT_ROWS):
        log_probs = torch.log_softmax(rows.float() / temperature, dim=-1)
        parts.append(-(log_probs.exp() * log_probs).sum(dim=-1))
    return torch.cat(parts).clamp(min=0).cpu().numpy()
