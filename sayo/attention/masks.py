"""What a query row may see, under each mask format that transformers hands to an attention kernel."""

import torch
from torch import nn

from sayo.attention.kernel import AttentionNotCaptured

Visible = tuple[int, int, int, "torch.Tensor | None"]
"""`(start, partial, stop, mask)`: keys before `start` and from `stop` on are seen by none of the rows, keys in
`start:partial` by all of them; `mask`, `(1 or H, r, stop - partial)`, is bool (True = seen) or additive, or None."""


class RowMask:
    """The kernel's mask, row block by row block, so that a capture never holds a square one of its own.

    The kernel gets its mask in its own format (transformers `masking_utils`), and each has to be understood:

    - None: for sdpa and flash kernels causal if the module says so (aligned to the last key; sdpa with several queries
      aligns to the first); for eager and flex_attention everything is seen;
    - 4-D bool (sdpa) or additive (eager, or a user's own): taken as it is;
    - 2-D (flash kernels): keys that are not padding, on top of the causal and sliding-window rule;
    - `BlockMask` (flex_attention): its `mask_mod`, evaluated at the wanted rows.

    Args:
        attention_mask: as the kernel gets it.
        query_length, key_length: of the kernel's inputs.
        kernel: its name.
        is_causal: of the call or the module.
        sliding_window: keys a row sees, itself included; None or an inactive window changes nothing. Formats with an
            explicit mask have it in there.
        documents: `(1, key_length)` int, for flash kernels that take a packed row: keys of other documents are unseen.
        bias: `(1 or B, H, query_length, key_length)` added to the scores of what is seen (Inkling).

    Raises:
        AttentionNotCaptured: a format that is none of these.
    """

    def __init__(
        self,
        attention_mask: object,
        query_length: int,
        key_length: int,
        *,
        kernel: str = "sdpa",
        is_causal: bool = True,
        sliding_window: int | None = None,
        documents: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ):
        dim = attention_mask.dim() if isinstance(attention_mask, torch.Tensor) else None
        if not (attention_mask is None or dim in (2, 4) or hasattr(attention_mask, "mask_mod")):
            raise AttentionNotCaptured(
                f"sayo does not know the attention mask format {type(attention_mask).__name__} "
                f"{tuple(getattr(attention_mask, 'shape', ()))} of kernel {kernel!r}: use sdpa, eager, flex_attention "
                "or flash_attention_2/3."
            )
        self.mask = attention_mask
        self.key_length = key_length
        is_implicit = not kernel.endswith("eager") and kernel != "flex_attention"  # without a mask: causal
        self.has_rule = dim == 2 or (attention_mask is None and is_implicit)
        self.is_causal = is_causal
        self.window = sliding_window
        self.documents = documents
        self.bias = bias
        top_left = kernel == "sdpa" and query_length > 1
        self.offset = 0 if top_left else key_length - query_length

    def block(self, sample: int, rows: torch.Tensor, device: torch.device) -> Visible:
        """What some query rows of one sample of the batch see; `rows`, `(r,)` int64, are on the CPU."""
        visible = self._visible(sample, rows, device)
        return visible if self.bias is None else self._biased(sample, rows, *visible)

    def _visible(self, sample: int, rows: torch.Tensor, device: torch.device) -> Visible:
        if self.has_rule:
            return self._rule(sample, rows, device)
        if self.mask is None:
            return 0, self.key_length, self.key_length, None
        if hasattr(self.mask, "mask_mod"):
            seen = _evaluate(self.mask.mask_mod, sample, rows.to(device), self.key_length)
        else:
            seen = self.mask[sample if self.mask.shape[0] > 1 else 0, ..., : self.key_length]
            seen = seen if seen.shape[1] == 1 else seen[:, as_slice(rows)]
        return _trim(seen)

    def count(self, sample: int, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        """`(r,)` number of keys that each of the rows sees; arguments as for `block`."""
        start, partial, _, mask = self._visible(sample, rows, device)
        seen = torch.full((len(rows),), partial - start, device=device)
        if mask is not None:
            visible = mask[0] if mask.dtype == torch.bool else mask[0] > torch.finfo(mask.dtype).min / 2
            seen = seen + visible.sum(dim=-1)
        return seen

    def _biased(self, sample: int, rows: torch.Tensor, start: int, partial: int, stop: int, mask) -> Visible:
        bias = self.bias[sample if self.bias.shape[0] > 1 else 0][:, as_slice(rows), start:stop].float()
        if mask is None:
            return start, start, stop, bias
        fill = True if mask.dtype == torch.bool else 0.0
        mask = nn.functional.pad(mask, (partial - start, 0), value=fill)
        hidden = torch.finfo(torch.float32).min
        return start, start, stop, torch.where(mask, bias, hidden) if mask.dtype == torch.bool else bias + mask

    def _rule(self, sample: int, rows: torch.Tensor, device: torch.device) -> Visible:
        first, last = int(rows.min()) + self.offset, int(rows.max()) + self.offset
        start, partial, stop = 0, self.key_length, self.key_length
        if self.is_causal:
            partial, stop = min(first + 1, stop), min(last + 1, stop)
        if self.window is not None:
            start = max(0, first - self.window + 1)
            partial = partial if start == 0 and last < self.window and self.is_causal else start
        if self.mask is not None or self.documents is not None:
            partial = start
        if partial >= stop:
            return start, stop, stop, None
        keys = torch.arange(partial, stop, device=device)
        position = rows.to(device)[:, None] + self.offset
        seen = torch.ones(len(rows), len(keys), dtype=torch.bool, device=device)
        if self.is_causal:
            seen &= keys <= position
        if self.window is not None:
            seen &= keys > position - self.window
            if not self.is_causal:
                seen &= keys < position + self.window
        if self.mask is not None:
            seen &= self.mask[sample, -self.key_length :][partial:stop].bool()
        if self.documents is not None:
            seen &= self.documents[0, partial:stop] == self.documents[0, position]
        return start, partial, stop, seen[None]


def kernel_mask(module: nn.Module, query, key, attention_mask: object, kernel: str, kwargs: dict) -> RowMask:
    """The `RowMask` of one kernel call, from the kernel's own arguments."""
    is_causal = kwargs.get("is_causal")
    return RowMask(
        attention_mask,
        query.shape[2],
        key.shape[2],
        kernel=kernel,
        is_causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
        sliding_window=kwargs.get("sliding_window"),
        documents=packed_documents(kernel, key.shape[2], kwargs) if attention_mask is None else None,
        bias=kwargs.get("position_bias"),
    )


def check_takes_bias(kernel: str) -> None:
    """Raise ValueError unless the kernel takes an additive mask, which `with_bias` makes."""
    if kernel != "sdpa" and not kernel.endswith("eager"):
        raise ValueError(
            f"The kernel {kernel!r} takes no additive bias: load the model with attn_implementation='sdpa' (or "
            "'eager', where transformers has no sdpa for it)."
        )


def with_bias(mask: RowMask, bias: torch.Tensor) -> torch.Tensor:
    """The additive mask `(B, H, Q, K)` that gives the scores `bias` (of this shape) on top of what `mask` hides."""
    hidden, given = torch.finfo(bias.dtype).min, mask.mask
    if given is None:
        if not (mask.has_rule and mask.is_causal and bias.shape[2] > 1):
            return bias
        rows = torch.arange(bias.shape[2], device=bias.device)[:, None] + mask.offset
        given = torch.arange(bias.shape[3], device=bias.device) <= rows
    else:
        given = given[..., : bias.shape[3]]
    return torch.where(given, bias, hidden) if given.dtype == torch.bool else bias + given.to(bias.dtype)


def packed_documents(kernel: str, key_length: int, kwargs: dict) -> torch.Tensor | None:
    """`(1, key_length)` document of each key where a flash kernel is given several sequences in one row.

    transformers' flash integration reads them from `cu_seq_lens_k`, or from `position_ids` that start over.
    """
    if "flash" not in kernel:
        return None
    ends = kwargs.get("cu_seq_lens_k")
    if ends is not None:
        keys = torch.arange(key_length, device=ends.device)
        return torch.searchsorted(ends[1:].long(), keys, right=True)[None]
    positions = kwargs.get("position_ids")
    if positions is None or positions.shape != (1, key_length):
        return None
    steps = torch.diff(positions, dim=1, prepend=positions[:, :1] - 1) != 1
    return steps.long().cumsum(dim=1)


def as_slice(rows: torch.Tensor) -> slice | torch.Tensor:
    """The same rows as a slice where they are consecutive, so that picking them copies nothing."""
    is_range = len(rows) > 0 and bool((rows.diff() == 1).all())
    return slice(int(rows[0]), int(rows[-1]) + 1) if is_range else rows


def _trim(mask: torch.Tensor) -> Visible:
    """Leave out the keys that no row sees (future, padding), and the mask where all rows see all keys."""
    length = mask.shape[-1]
    if mask.device.type != "cpu":  # asking would wait for the device
        return 0, 0, length, mask
    is_bool = mask.dtype == torch.bool
    flat = mask.flatten(0, 1)
    some = (flat.any(dim=0) if is_bool else flat.amax(dim=0) > torch.finfo(mask.dtype).min / 2).nonzero()
    if len(some) == 0:
        return 0, 0, 0, None
    start, stop = int(some[0]), int(some[-1]) + 1
    plain = flat[:, start:stop].all(dim=0) if is_bool else (flat[:, start:stop] == 0).all(dim=0)
    masked = (~plain).nonzero()
    if len(masked) == 0:
        return start, stop, stop, None
    partial = start + int(masked[0])
    return start, partial, stop, mask[..., partial:stop]


def _evaluate(mask_mod, sample: int, rows: torch.Tensor, key_length: int) -> torch.Tensor:
    batch = torch.tensor(sample, device=rows.device)
    head = torch.zeros((), dtype=torch.long, device=rows.device)
    keys = torch.arange(key_length, device=rows.device)
    over_keys = torch.vmap(mask_mod, in_dims=(None, None, None, 0))
    over_rows = torch.vmap(over_keys, in_dims=(None, None, 0, None))
    return over_rows(batch, head, rows, keys)[None]
