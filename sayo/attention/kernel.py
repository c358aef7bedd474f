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
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn
from transformers.modeling_utils import AttentionInterface

from sayo.attention.layers import attention_layers


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
        with _wrapped(kernel):
            yield kernel
    finally:
        for hook in hooks:
            hook.remove()
        for layer, module in modules.items():
            _LISTENERS[id(module)].remove((layer, listener))
            if not _LISTENERS[id(module)]:
                del _LISTENERS[id(module)]


@contextmanager
def _wrapped(kernel: str) -> Iterator[None]:
    """Wrap the kernel's entry in transformers' interface; nested taps share one wrapper."""
    mapping = AttentionInterface._global_mapping
    stock = mapping.get(kernel)
    if getattr(stock, "is_sayo_wrapper", False):
        yield
        return
    AttentionInterface.register(kernel, _wrap(stock, kernel))
    try:
        yield
    finally:
        if stock is None:  # "eager" has no entry: each model file brings its own function
            del mapping[kernel]
        else:
            AttentionInterface.register(kernel, stock)


def _wrap(stock: Callable | None, kernel: str) -> Callable:
    def attention(module, query, key, value, attention_mask, *args, **kwargs):
        run = stock or _eager_function(module)
        listeners = _LISTENERS.get(id(module), ())
        for layer, listener in listeners:
            query, key, attention_mask = listener.adjust(layer, module, query, key, attention_mask, kernel, **kwargs)
        output = run(module, query, key, value, attention_mask, *args, **kwargs)
        for layer, listener in listeners:
            listener.read(layer, module, query, key, attention_mask, kernel, **kwargs)
        return output

    if stock is not None:
        attention = functools.wraps(stock)(attention)
    attention.is_sayo_wrapper = True
    return attention


def _eager_function(module: nn.Module) -> Callable:
    """The eager function of the file in which the module's forward was written."""
    names = inspect.unwrap(type(module).forward).__globals__
    if "eager_attention_forward" not in names:
        raise NotImplementedError(
            f"{type(module).__name__} has no `eager_attention_forward` in its file: load the model with "
            "attn_implementation='sdpa' to read its attention."
        )
    return names["eager_attention_forward"]
