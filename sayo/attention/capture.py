"""Exact attention of chosen layers, rows and key groups, read beside any kernel while the model runs as always.

transformers sends every attention layer through `AttentionInterface`. While a capture is open, the entry of the
model's own kernel is wrapped: the stock function is called unchanged and, for a chosen module, the wanted rows are
read from the same queries, keys and mask. The model's config never changes, so masks, flash checks and saved configs
stay as they were; vision towers and other models that share the kernel pass straight through.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.modeling_utils import AttentionInterface

from sayo.attention.layers import LayerSpec, attention_layers, model_config, resolve_layers
from sayo.attention.masks import additive_mask
from sayo.attention.read import read_masses


class AttentionNotCaptured(RuntimeError):
    """A forward pass ended without the attention that was asked for."""


class Reading:
    """What one pass over a batch yields: head-averaged masses per key group, layer by layer.

    Filled while the model runs; a batch may pass in several consecutive chunks (as TRL's scoring pass does).
    """

    def __init__(self, layers: tuple[int, ...], rows: torch.Tensor, groups: dict[str, torch.Tensor], **options):
        if not groups:
            raise ValueError("Name at least one key group, e.g. groups={'image': input_ids == image_token_id}.")
        self.layers = layers
        self.rows = rows
        self.groups = tuple(groups)
        self.weights = torch.stack([weight.float() for weight in groups.values()], dim=-1)
        self.image_index: torch.Tensor | None = options.pop("image_index", None)
        self.options = options
        self._masses: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        self._maps: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}

    @property
    def masses(self) -> dict[str, torch.Tensor]:
        """Key group -> `(B, L, R)` float32 (`(B, L, H, R)` per head) attention mass."""
        stacked = torch.stack([torch.cat(self._masses[layer]) for layer in self.layers], dim=1)
        return {name: stacked[..., index] for index, name in enumerate(self.groups)}

    @property
    def maps(self) -> torch.Tensor | None:
        """`(B, L, R, N)` attention on each key of `image_index`, or None when it was not asked for."""
        if self.image_index is None:
            return None
        return torch.stack([torch.cat(self._maps[layer]) for layer in self.layers], dim=1)

    def read(self, layer: int, module: nn.Module, query, key, attention_mask, kernel: str, **kwargs) -> None:
        """Called by the wrapped kernel for every chosen layer; see `read_masses`."""
        start = sum(len(chunk) for chunk in self._masses[layer])
        batch = slice(start, start + query.shape[0])
        weights = self.weights[batch]
        if weights.shape[0] != query.shape[0] or weights.shape[1] != key.shape[2]:
            raise AttentionNotCaptured(
                f"Layer {layer} attends over {tuple(key.shape[:3:2])} (samples, keys), but the key groups describe "
                f"{tuple(weights.shape[:2])}: pass groups of the whole sequence, and one reading per pass."
            )
        is_causal = kwargs.get("is_causal")
        rows = self.rows if self.rows.dim() == 1 else self.rows[batch]
        mask = additive_mask(
            attention_mask,
            rows,
            query.shape[2],
            key.shape[2],
            is_causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
            # sdpa, eager and flex get the window inside their mask; only flash kernels apply the argument.
            sliding_window=kwargs.get("sliding_window") if "flash" in kernel else None,
            top_left=kernel == "sdpa",
        )
        masses, maps = read_masses(
            query,
            key,
            rows,
            weights,
            mask,
            scaling=kwargs.get("scaling"),
            softcap=kwargs.get("softcap"),
            sinks=kwargs.get("s_aux"),
            image_index=None if self.image_index is None else self.image_index[batch],
            **self.options,
        )
        self._masses[layer].append(masses)
        if maps is not None:
            self._maps[layer].append(maps)

    def check(self, kernel: str) -> None:
        """Raise unless every layer was read for the whole batch: a missing reading must never look like a zero.

        Raises:
            AttentionNotCaptured: with what was missing and the way out.
        """
        for layer in self.layers:
            seen = sum(len(chunk) for chunk in self._masses[layer])
            if seen != len(self.weights):
                raise AttentionNotCaptured(
                    f"Attention of layer {layer} was read for {seen} of {len(self.weights)} samples. Either the model "
                    f"did not run, or its kernel ({kernel!r}) bypasses transformers' AttentionInterface: load the "
                    "model with attn_implementation='sdpa'."
                )


class AttentionCapture:
    """Reads attention of a transformers model, in whatever kernel it runs.

    Args:
        model: any transformers vision-language (or causal) model; DDP, DeepSpeed, FSDP2 and PEFT wrappers are fine.
        layers: `"last"`, `"all"`, an index (also negative), a range `"4-7"`, a fraction of the depth, or a list.
        per_head: keep the query heads apart.
        byte_budget: upper bound in bytes of one block of scores.

    Example:
        >>> capture = AttentionCapture(model, layers="last")
        >>> groups = {"image": inputs["input_ids"] == model.config.image_token_id}
        >>> with capture.reading(rows=slice(prompt_length - 1, None), groups=groups) as reading:
        ...     model(**inputs)
        >>> reading.masses["image"]  # (B, layers, rows)
    """

    def __init__(
        self,
        model: nn.Module,
        layers: LayerSpec = "last",
        *,
        per_head: bool = False,
        byte_budget: int = 64 * 2**20,
    ):
        modules = attention_layers(model)
        num_layers = model_config(model).get_text_config().num_hidden_layers
        self.layers = resolve_layers(layers, tuple(modules), num_layers)
        self._layer_of = {id(modules[layer]): layer for layer in self.layers}
        self._config = modules[self.layers[0]].config
        self._options = {"per_head": per_head, "byte_budget": byte_budget}

    @property
    def kernel(self) -> str:
        """Name of the attention kernel that the decoder runs now."""
        return self._config._attn_implementation

    @contextmanager
    def reading(
        self,
        rows: slice | torch.Tensor,
        groups: dict[str, torch.Tensor],
        image_index: torch.Tensor | None = None,
    ) -> Iterator[Reading]:
        """Read while the body runs the model once over the batch (whole, or in consecutive chunks).

        Args:
            rows: query rows to read: a slice of the sequence, or `(R,)` / `(B, R)` int64 indices.
            groups: key group -> `(B, S)` bool or float weights over the padded sequence.
            image_index: `(B, N)` int64 key positions whose attention is kept one by one.

        Raises:
            AttentionNotCaptured: the body ended without a full reading.
        """
        first = next(iter(groups.values()))
        if isinstance(rows, slice):
            rows = torch.arange(first.shape[1], device=first.device)[rows]
        reading = Reading(self.layers, rows, groups, image_index=image_index, **self._options)
        with _wrapped_kernel(self.kernel) as kernel, _listening(self._layer_of, reading):
            yield reading
        reading.check(kernel)


_LISTENERS: dict[int, list[tuple[int, Reading]]] = {}  # id of an attention module -> (layer, open readings)


@contextmanager
def _listening(layer_of: dict[int, int], reading: Reading) -> Iterator[None]:
    entries = {module_id: (layer, reading) for module_id, layer in layer_of.items()}
    for module_id, entry in entries.items():
        _LISTENERS.setdefault(module_id, []).append(entry)
    try:
        yield
    finally:
        for module_id, entry in entries.items():
            _LISTENERS[module_id].remove(entry)
            if not _LISTENERS[module_id]:
                del _LISTENERS[module_id]


@contextmanager
def _wrapped_kernel(kernel: str) -> Iterator[str]:
    """Wrap the kernel's entry in transformers' interface; nested captures share one wrapper."""
    mapping = AttentionInterface._global_mapping
    stock = mapping.get(kernel)
    if getattr(stock, "is_sayo_wrapper", False):
        yield kernel
        return
    AttentionInterface.register(kernel, _wrap(stock, kernel))
    try:
        yield kernel
    finally:
        if stock is None:  # "eager" has no entry: each model file brings its own function
            del mapping[kernel]
        else:
            AttentionInterface.register(kernel, stock)


def _wrap(stock: Callable | None, kernel: str) -> Callable:
    def attention(module, query, key, value, attention_mask, *args, **kwargs):
        run = stock or sys.modules[type(module).__module__].eager_attention_forward
        output = run(module, query, key, value, attention_mask, *args, **kwargs)
        for layer, reading in _LISTENERS.get(id(module), ()):
            reading.read(layer, module, query, key, attention_mask, kernel, **kwargs)
        return output

    if stock is not None:
        attention = functools.wraps(stock)(attention)
    attention.is_sayo_wrapper = True
    return attention
