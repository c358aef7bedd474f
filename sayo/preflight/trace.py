"""What one layer keeps and needs, found by running it on fake tensors.

A layer of the recipe's own model (kernel, LoRA, autocast and all) runs forward and backward on tensors without data
(torch's `FakeTensorMode`), while `LiveBytes` counts the bytes of all live tensor storages. Nothing is computed or
allocated. What a kernel allocates inside itself and frees before it returns (its workspace) is not seen.
"""

import copy
import functools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sayo.preflight.policy import MetaPolicy, trainable


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensor storages (`now`, `peak`), real or fake; older ones count from `watch` on."""

    def __init__(self):
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def watch(self, *tensors: torch.Tensor) -> None:
        """Count these tensors too, each storage once."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, key)
        self.peak = max(self.peak, self.now)

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
    """One decoder layer on `(batch, tokens)` positions; completions end apart, so batches carry a mask."""

    def arguments() -> dict[str, Any]:
        angles = torch.empty(batch, tokens, policy.head_dim, dtype=policy.dtype)
        mask = torch.empty(batch, 1, tokens, tokens, dtype=torch.bool)
        return {"position_embeddings": (angles, angles), "attention_mask": mask}

    return _trace(policy, bf16, policy.decoder.layers[0], (batch, tokens, policy.text.hidden_size), arguments, True)


@functools.lru_cache(maxsize=256)
def vision_block(policy: MetaPolicy, bf16: bool, images: int, patches: int) -> LayerBytes:
    """One block of the vision tower on `images` images of `patches` patches, full attention within each image."""
    vision, total = policy.vision, patches * images

    def arguments() -> dict[str, Any]:
        angles = torch.empty(total, vision.hidden_size // vision.num_heads)
        boundaries = np.arange(0, total + 1, patches)  # numpy: a fake tensor has no values to split at
        return {"position_embeddings": (angles, angles), "cu_seqlens": boundaries}

    return _trace(policy, bf16, policy.tower.blocks[0], (total, vision.hidden_size), arguments)


@functools.lru_cache(maxsize=256)
def merger(policy: MetaPolicy, bf16: bool, patches: int) -> LayerBytes:
    """One merger (projector) from patches to visual tokens."""
    size, below = (patches, policy.vision.hidden_size), trainable(policy.tower.blocks)[0] > 0
    return _trace(policy, bf16, policy.tower.merger, size, dict, below)


def _trace(
    policy: MetaPolicy, bf16: bool, module: nn.Module, size: tuple, arguments: Callable, below: bool = False
) -> LayerBytes:
    """Run `module` on hidden states of a size, without and with gradients.

    Args:
        arguments: makes the other arguments, which serve all layers alike (mask, rotary angles): counted elsewhere.
        below: something below learns, so gradients pass through even where the module itself is frozen.
    """
    if not size[0]:  # no image
        return LayerBytes()
    live, layer = LiveBytes(), copy.deepcopy(module)
    with FakeTensorMode(allow_non_fake_inputs=True), live, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        layer.to_empty(device="cpu")
        shared = arguments()
        start = torch.empty(size, dtype=policy.dtype, requires_grad=True)
        base = live.now
        hidden = start * 1.0  # like a real hidden state: no leaf, freed as soon as nobody needs it
        input_bytes = hidden.untyped_storage().nbytes()
        floor = live.peak = live.now
        with torch.no_grad():
            output_bytes = layer(hidden, **shared).untyped_storage().nbytes()
        forward = live.peak - floor
        if not (below or trainable(layer)[0]):
            return LayerBytes(input_bytes, output_bytes, forward=forward)
        result = layer(hidden, **shared)
        del hidden
        saved = live.now - base - output_bytes
        gradient = torch.empty_like(result)
        live.peak = live.now
        result.backward(gradient)
        backward = live.peak - base - saved - output_bytes
        del result, gradient
    return LayerBytes(input_bytes, output_bytes, saved, forward, backward)
