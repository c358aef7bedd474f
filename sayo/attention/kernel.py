"""The tap: while it is open, every call of the attention kernel can be listened to, and adjusted on its way in.

transformers sends every attention layer through `AttentionInterface`. The entry of the model's own kernel is wrapped
under its own name: listeners that adjust get the kernel's arguments first (steering; a mere capture changes nothing),
the stock function is called, then whoever reads is handed the queries, keys and mask that it was called with. The
model's config never changes, so masks, flash checks and saved configs stay as they were (a kernel registered under a
new name would need a mask function of that name, or masks silently become None); vision towers and other models that
share the kernel pass straight through.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from transformers.modeling_utils import AttentionInterface

from sayo.attention.layers import attention_layers
from sayo.errors import SayoError

READ_ARGUMENTS = {"scaling", "softcap", "s_aux", "sinks", "position_bias", "sliding_window", "is_causal"}
OTHER_ARGUMENTS = {"dropout", "deterministic", "output_attentions", "position_ids", "layer_idx", "kernel_options"}
OTHER_ARGUMENTS |= {f"{name}_{side}" for name in ("cu_seq_lens", "max_length") for side in "qk"}  # of packed rows
"""Arguments of kernels that a reading takes into account, and those that change no score (or are read in the mask)."""


class AttentionNotCaptured(SayoError, RuntimeError):
    """The attention that was asked for could not be read; the message says why and what to do."""


class Listener:
    """Whoever wants to see or to change what the kernel of each of its `layers` receives.

    Several adjust one after the other, in the order in which they were opened; every capture sees the outcome.
    """

    layers: tuple[int, ...]

    def ran(self, layer: int) -> None:
        """Called before an attention module runs, whether or not its kernel can be listened to."""

    def adjust(self, layer: int, module: nn.Module, query, key, attention_mask, kernel: str, **kwargs) -> tuple:
        """Called before the kernel, with its arguments; returns the queries, keys and mask that it shall get."""
        return query, key, attention_mask

    def read(self, layer: int, module: nn.Module, query, key, attention_mask, kernel: str, **kwargs) -> None:
        """Called after the kernel, with its arguments."""


_LISTENERS: dict[int, list[tuple[int, Listener]]] = {}  # id of an attention module -> (layer, listener)


@contextmanager
def tapped(model: nn.Module, listener: Listener) -> Iterator[str]:
    """Let `listener` see every kernel call of its layers of a model, wrapped or not; yields the kernel's name."""
    modules = attention_layers(model)  # as they are now: an adapter may have replaced some since the listener was made
    modules = {layer: modules[layer] for layer in listener.layers}
    kernel = next(iter(modules.values())).config._attn_implementation
    hooks = [
        module.register_forward_pre_hook(lambda *_, layer=layer: listener.ran(layer))
        for layer, module in modules.items()
    ]
    for layer, module in modules.items():
        _LISTENERS.setdefault(id(module), []).append((layer, listener))
    try:
        with shared_patch(kernel, functools.partial(_wrap_entry, kernel)):
            yield kernel
    finally:
        for hook in hooks:
            hook.remove()
        for layer, module in modules.items():
            _LISTENERS[id(module)].remove((layer, listener))
            if not _LISTENERS[id(module)]:
                del _LISTENERS[id(module)]


_PATCHES: dict[Hashable, list] = {}  # what is patched -> [number of users, how to undo it]
_LOCK = threading.Lock()


@contextmanager
def shared_patch(key: Hashable, apply: Callable[[], Callable[[], object]]) -> Iterator[None]:
    """Keep a patch in place while anyone needs it: users may overlap and end in any order, in any thread.

    `apply` makes the patch and returns what undoes it.
    """
    with _LOCK:
        if key not in _PATCHES:
            _PATCHES[key] = [0, apply()]
        _PATCHES[key][0] += 1
    try:
        yield
    finally:
        with _LOCK:
            _PATCHES[key][0] -= 1
            if _PATCHES[key][0] == 0:
                _PATCHES.pop(key)[1]()


def _wrap_entry(kernel: str) -> Callable[[], object]:
    """Wrap the kernel's entry in transformers' interface."""
    mapping = AttentionInterface._global_mapping
    stock = mapping.get(kernel)
    AttentionInterface.register(kernel, _wrap(stock, kernel))
    if stock is None:  # "eager" has no entry: each model file brings its own function
        return functools.partial(mapping.pop, kernel)
    return functools.partial(AttentionInterface.register, kernel, stock)


def _wrap(stock: Callable | None, kernel: str) -> Callable:
    def attention(module, query, key, value, attention_mask, *args, **kwargs):
        run = stock or _eager_function(module)
        listeners = tuple(_LISTENERS.get(id(module), ()))
        if listeners:
            _check_arguments(run, kernel, kwargs)
        for layer, listener in listeners:
            query, key, attention_mask = listener.adjust(layer, module, query, key, attention_mask, kernel, **kwargs)
        output = run(module, query, key, value, attention_mask, *args, **kwargs)
        for layer, listener in listeners:
            listener.read(layer, module, query, key, attention_mask, kernel, **kwargs)
        return output

    return attention if stock is None else functools.wraps(stock)(attention)


def _check_arguments(function: Callable, kernel: str, arguments: Mapping[str, object]) -> None:
    """Refuse what could change the scores unseen: what the kernel names and sayo does not, unknown real tensors."""
    for name, value in arguments.items():
        is_weights = isinstance(value, torch.Tensor) and value.is_floating_point()
        if name in READ_ARGUMENTS | OTHER_ARGUMENTS or value is None or not (is_weights or name in _names(function)):
            continue
        raise AttentionNotCaptured(
            f"The model gives its kernel ({kernel!r}) the argument {name!r}, which may change the attention and which "
            "sayo does not read: load the model with attn_implementation='sdpa' or 'eager' if that leaves it out; "
            "otherwise its attention cannot be read."
        )


@functools.cache
def _names(function: Callable) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except ValueError:  # a builtin without a signature
        return frozenset()


def _eager_function(module: nn.Module) -> Callable:
    """The eager function of the file in which the module's forward was written."""
    names = inspect.unwrap(type(module).forward).__globals__
    if "eager_attention_forward" not in names:
        raise AttentionNotCaptured(
            f"{type(module).__name__} has no `eager_attention_forward` in its file: load the model with "
            "attn_implementation='sdpa' to read its attention."
        )
    return names["eager_attention_forward"]
