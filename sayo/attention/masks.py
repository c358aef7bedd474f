"""What a query row may see, under each mask format that transformers hands to an attention kernel."""

from __future__ import annotations

import torch


def additive_mask(
    attention_mask: object,
    rows: torch.Tensor,
    query_length: int,
    key_length: int,
    *,
    is_causal: bool,
    sliding_window: int | None,
    top_left: bool,
) -> torch.Tensor | None:
    """Additive float32 mask of the wanted rows, broadcastable to `(B, H, R, key_length)`, or None if all is visible.

    The kernel gets its mask in its own format (transformers `masking_utils`), so the reading must understand each:

    - None: causal if the module says so, aligned to the last key (all keys for a single decode row);
    - 4-D bool (sdpa) or float (eager, or a user's own): taken as it is;
    - 2-D (flash attention): keys that are not padding, on top of the causal and sliding-window rule;
    - `BlockMask` (flex_attention): its `mask_mod`, evaluated at the wanted rows.

    Args:
        rows: `(R,)` or `(B, R)` indices on the query axis.
        top_left: True where the kernel aligns a causal mask without explicit mask to the first key (torch's sdpa).
    """
    if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 4:
        return _rows_of_dense_mask(attention_mask[..., :key_length], rows)
    if hasattr(attention_mask, "mask_mod"):
        return _to_additive(_rows_of_block_mask(attention_mask, rows, key_length))
    if attention_mask is not None and not (isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2):
        raise TypeError(
            f"sayo does not know the attention mask format {type(attention_mask).__name__} "
            f"{tuple(getattr(attention_mask, 'shape', ()))}: use sdpa, eager, flex_attention or flash_attention_2/3."
        )
    visible = _causal(rows, query_length, key_length, is_causal, sliding_window, top_left)
    if attention_mask is not None:
        padding = attention_mask[:, -key_length:].bool()[:, None, None, :]
        visible = padding if visible is None else visible & padding
    return None if visible is None else _to_additive(visible)


def _to_additive(visible: torch.Tensor) -> torch.Tensor:
    zeros = torch.zeros(visible.shape, dtype=torch.float32, device=visible.device)
    return zeros.masked_fill(~visible, torch.finfo(torch.float32).min)


def _rows_of_dense_mask(mask: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    if mask.shape[2] == 1:
        picked = mask
    elif rows.dim() == 1:
        picked = mask[:, :, rows]
    else:
        index = rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
        picked = mask.expand(rows.shape[0], -1, -1, -1).gather(2, index)
    # The smallest finite value of a half-precision mask is far from float32's: it would leak under huge scores.
    return _to_additive(picked) if picked.dtype == torch.bool else picked.float()


def _rows_of_block_mask(mask: object, rows: torch.Tensor, key_length: int) -> torch.Tensor:
    batch = rows.shape[0] if rows.dim() == 2 else int(mask.kv_num_blocks.shape[0])
    rows = rows if rows.dim() == 2 else rows.expand(batch, -1)
    zero = torch.zeros((), dtype=torch.long, device=rows.device)
    keys = torch.arange(key_length, device=rows.device)
    batches = torch.arange(batch, device=rows.device)
    over_keys = torch.vmap(mask.mask_mod, in_dims=(None, None, None, 0))
    over_rows = torch.vmap(over_keys, in_dims=(None, None, 0, None))
    over_batch = torch.vmap(over_rows, in_dims=(0, None, 0, None))
    return over_batch(batches, zero, rows, keys)[:, None]


def _causal(
    rows: torch.Tensor,
    query_length: int,
    key_length: int,
    is_causal: bool,
    sliding_window: int | None,
    top_left: bool,
) -> torch.Tensor | None:
    if query_length == 1 and sliding_window is None:
        return None
    keys = torch.arange(key_length, device=rows.device)
    position = rows[..., None] + (0 if top_left and query_length > 1 else key_length - query_length)
    visible = torch.ones(position.shape[:-1] + keys.shape, dtype=torch.bool, device=rows.device)
    if is_causal:
        visible &= keys <= position
    if sliding_window is not None:
        visible &= keys > position - sliding_window
        if not is_causal:
            visible &= keys < position + sliding_window
    return visible[None, None] if rows.dim() == 1 else visible[:, None]
