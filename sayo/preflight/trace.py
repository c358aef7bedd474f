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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sayo.preflight.policy import Policy


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


@dataclass(frozen=True)
class LayerBytes:
    """One layer, bytes.

    input: of its hidden states.
    output: of what it returns.
    saved: kept from forward to backward (its input too, where an operation needs it).
    forward: most that is live while it runs without gradients, beyond its input.
    backward: most that is live while it runs backward, beyond `saved`: gradients of hidden states and weights.
    """

    input: int
    output: int
    saved: int
    forward: int
    backward: int


def _remembered(trace: Callable) -> Callable:
    """Every sharding and every knob asks for the same layers again."""

    @functools.wraps(trace)
    def ask(self: LayerTracer, *sizes: int) -> LayerBytes:
        known, key = self.policy.traces, (trace.__name__, sizes, self.bf16)
        if key not in known:
            known[key] = trace(self, *sizes)
        return known[key]

    return ask


class LayerTracer:
    """Runs single layers of a policy on fake tensors.

    Args:
        policy: on the meta device.
        bf16: run under bfloat16 autocast, as the trainer's `bf16: true` does.
    """

    def __init__(self, policy: Policy, bf16: bool):
        self.policy = policy
        self.bf16 = bf16
        self.text = policy.config.get_text_config()
        self.vision_dim = policy.config.vision_config.hidden_size
        self.head_dim = getattr(self.text, "head_dim", None) or self.text.hidden_size // self.text.num_attention_heads

    @_remembered
    def decoder_layer(self, batch: int, tokens: int) -> LayerBytes:
        """One decoder layer on `(batch, tokens)` positions; completions end apart, so batches carry a mask."""
        size = (batch, tokens, self.text.hidden_size)

        def shared() -> tuple[torch.Tensor, ...]:
            angles = torch.empty(batch, tokens, self.head_dim, dtype=self.policy.dtype)
            return angles, torch.empty(batch, 1, tokens, tokens, dtype=torch.bool)

        def run(layer: nn.Module, hidden: torch.Tensor, angles: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            output = layer(hidden, position_embeddings=(angles, angles), attention_mask=mask)
            return output[0] if isinstance(output, tuple) else output

        return self._trace(self.policy.decoder.layers[0], size, run, shared, below=True)

    @_remembered
    def vision_block(self, patches_per_image: int, images: int) -> LayerBytes:
        """One block of the vision tower on the patches of several images, full attention within each image."""
        total = patches_per_image * images
        head_dim = self.vision_dim // self.policy.config.vision_config.num_heads
        boundaries = np.arange(0, total + 1, patches_per_image)  # numpy: a fake tensor has no values to split at

        def run(block: nn.Module, hidden: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
            return block(hidden, cu_seqlens=boundaries, position_embeddings=(angles, angles))

        return self._trace(
            self.policy.vision.blocks[0], (total, self.vision_dim), run, lambda: (torch.empty(total, head_dim),)
        )

    @_remembered
    def merger(self, patches: int) -> LayerBytes:
        """One merger (projector) from patches to visual tokens."""
        size, below = (patches, self.vision_dim), learns(self.policy.vision.blocks)
        return self._trace(self.policy.vision.merger, size, lambda merge, hidden: merge(hidden), below=below)

    @_remembered
    def norm(self, batch: int, tokens: int) -> LayerBytes:
        """The decoder's last norm."""
        size = (batch, tokens, self.text.hidden_size)
        return self._trace(self.policy.decoder.norm, size, lambda norm, hidden: norm(hidden), below=True)

    def _autocast(self):
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext()

    def _trace(
        self, module: nn.Module, size: tuple[int, ...], run: Callable, shared: Callable = tuple, below: bool = False
    ) -> LayerBytes:
        """Run `module` without and with gradients.

        `shared` makes what serves all layers alike (mask, rotary angles): counted by the caller, not here. `below`:
        something below learns, so gradients pass through even where the module itself is frozen.
        """
        live = LiveBytes()
        with _fake_copy(module) as layer, live, self._autocast():
            common = shared()
            start = torch.empty(size, dtype=self.policy.dtype, requires_grad=True)
            live.watch(start, *common, *layer.parameters(), *layer.buffers())
            base = live.now
            hidden = start * 1.0  # like a real hidden state: no leaf, freed as soon as nobody needs it
            floor = live.peak = live.now
            with torch.no_grad():
                output_bytes = run(layer, hidden, *common).untyped_storage().nbytes()
            forward = live.peak - floor
            if not (below or learns(layer)):
                return LayerBytes(hidden.untyped_storage().nbytes(), output_bytes, 0, forward, 0)
            input_bytes = hidden.untyped_storage().nbytes()
            result = run(layer, hidden, *common)
            del hidden
            saved = live.now - base - output_bytes
            gradient = torch.empty_like(result)
            live.peak = live.now
            result.backward(gradient)
            backward = live.peak - base - saved - output_bytes
            del result, gradient
        return LayerBytes(input_bytes, output_bytes, saved, forward, backward)


def learns(module: nn.Module) -> bool:
    """Does any parameter of `module` get a gradient?"""
    return any(parameter.requires_grad for parameter in module.parameters())


@contextmanager
def _fake_copy(module: nn.Module) -> Iterator[nn.Module]:
    """The meta module with fake CPU parameters, inside an open `FakeTensorMode`."""
    layer = copy.deepcopy(module)
    with FakeTensorMode():
        for owner in layer.modules():
            for name, parameter in list(owner._parameters.items()):
                if parameter is not None:
                    fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                    owner._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
            for name, buffer in list(owner._buffers.items()):
                if buffer is not None:
                    owner._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        yield layer


def trainable_bytes(module: nn.Module) -> int:
    """Bytes of the gradients of `module`, each parameter in its own dtype."""
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
