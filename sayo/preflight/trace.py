"""What one layer keeps and needs, found by running it on fake tensors.

A layer of the recipe's own model (kernel, LoRA, autocast and all) runs forward and backward on tensors without data
(torch's `FakeTensorMode`), while `LiveBytes` counts the bytes of all live tensor storages. Nothing is computed and
nothing is allocated, so an 8B layer takes a fraction of a second on any machine. What a kernel allocates inside
itself and frees before it returns (its workspace) is not seen.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sayo.preflight.policy import MetaPolicy, trainable


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensor storages, real or fake, while it is open. Independent of any allocator.

    `now` and `peak` are bytes. Tensors made before it opened count from `watch` on.
    """

    def __init__(self):
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.now = 0
        self.peak = 0

    def watch(self, *tensors: torch.Tensor) -> int:
        """Count these tensors too, each storage once. Returns the bytes that were new."""
        before = self.now
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, key)
        self.peak = max(self.peak, self.now)
        return self.now - before

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.watch(*(leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)))
        return output


class LayerBytes(NamedTuple):
    """One layer, bytes."""

    input: int = 0  # of its hidden states
    output: int = 0  # of what it returns
    saved: int = 0  # kept from forward to backward (its input too, where an operation needs it)
    forward: int = 0  # most that is live while it runs without gradients, beyond its input
    backward: int = 0  # most that is live while it runs backward, beyond `saved`: gradients of hidden states, weights


@functools.lru_cache(maxsize=256)
def decoder_layer(policy: MetaPolicy, bf16: bool, batch: int, tokens: int) -> LayerBytes:
    """One decoder layer on `(batch, tokens)` positions; completions end apart, so batches carry a mask.

    Args:
        bf16: run under bfloat16 autocast, as the trainer's `bf16: true` does.
    """

    def run(layer: nn.Module, hidden: torch.Tensor, angles: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        output = layer(hidden, position_embeddings=(angles, angles), attention_mask=mask)
        return output[0] if isinstance(output, tuple) else output

    shared = {(batch, tokens, policy.head_dim): policy.dtype, (batch, 1, tokens, tokens): torch.bool}
    size = (batch, tokens, policy.text.hidden_size)
    return _trace(policy, bf16, policy.decoder.layers[0], size, run, shared, below=True)


@functools.lru_cache(maxsize=256)
def vision_block(policy: MetaPolicy, bf16: bool, images: int, patches: int) -> LayerBytes:
    """One block of the vision tower on `images` images of `patches` patches, full attention within each image."""
    if not patches:
        return LayerBytes()
    vision, total = policy.vision, patches * images
    boundaries = np.arange(0, total + 1, patches)  # numpy: a fake tensor has no values to split at

    def run(block: nn.Module, hidden: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        return block(hidden, cu_seqlens=boundaries, position_embeddings=(angles, angles))

    shared = {(total, vision.hidden_size // vision.num_heads): torch.float32}
    return _trace(policy, bf16, policy.tower.blocks[0], (total, vision.hidden_size), run, shared)


@functools.lru_cache(maxsize=256)
def merger(policy: MetaPolicy, bf16: bool, patches: int) -> LayerBytes:
    """One merger (projector) from patches to visual tokens."""
    if not patches:
        return LayerBytes()
    size, below = (patches, policy.vision.hidden_size), trainable(policy.tower.blocks)[0] > 0
    return _trace(policy, bf16, policy.tower.merger, size, lambda layer, hidden: layer(hidden), below=below)


def _trace(
    policy: MetaPolicy,
    bf16: bool,
    module: nn.Module,
    size: tuple,
    run: Callable,
    shared: Any = None,
    below: bool = False,
) -> LayerBytes:
    """Run `module` without and with gradients.

    Args:
        shared: shapes and dtypes of what serves all layers alike (mask, rotary angles): counted by the caller.
        below: something below learns, so gradients pass through even where the module itself is frozen.
    """
    live, layer = LiveBytes(), copy.deepcopy(module)
    autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
    with FakeTensorMode(), live, autocast:
        _materialise(layer)
        common = [torch.empty(shape, dtype=dtype) for shape, dtype in (shared or {}).items()]
        start = torch.empty(size, dtype=policy.dtype, requires_grad=True)
        live.watch(start, *common, *layer.parameters(), *layer.buffers())
        base = live.now
        hidden = start * 1.0  # like a real hidden state: no leaf, freed as soon as nobody needs it
        input_bytes = hidden.untyped_storage().nbytes()
        floor = live.peak = live.now
        with torch.no_grad():
            output_bytes = run(layer, hidden, *common).untyped_storage().nbytes()
        forward = live.peak - floor
        if not (below or trainable(layer)[0]):
            return LayerBytes(input_bytes, output_bytes, 0, forward, 0)
        result = run(layer, hidden, *common)
        del hidden
        saved = live.now - base - output_bytes
        gradient = torch.empty_like(result)
        live.peak = live.now
        result.backward(gradient)
        backward = live.peak - base - saved - output_bytes
        del result, gradient
    return LayerBytes(input_bytes, output_bytes, saved, forward, backward)


def _materialise(module: nn.Module) -> None:
    """Give a meta module fake CPU parameters; inside an open `FakeTensorMode`."""
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                owner._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
