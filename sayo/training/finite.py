"""Which tensor of a model is the first that is not finite."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import nn


def all_finite(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Whether every number is finite, of the floating tensors' parts that this rank holds; one pass, one answer."""
    # Shards of ZeRO-3 and FSDP2
    parts = [getattr(tensor, "ds_tensor", tensor).detach() for tensor in tensors if tensor is not None]
    parts = [part.to_local() if hasattr(part, "to_local") else part for part in parts]
    ends = [end.float() for part in parts if part.is_floating_point() and part.numel() for end in torch.aminmax(part)]
    return not ends or bool(torch.stack(ends).isfinite().all())


def first_not_finite(model: nn.Module, forward: Callable[[], Any] | None = None) -> str:
    """A sentence, with a blank after it, that names where the trouble began; empty where that cannot be told.

    Weights come first, then gradients, then the outputs of modules while `forward` is run again.
    """
    weights = dict(model.named_parameters())
    for what, tensors in (("weights", weights), ("gradients", {name: p.grad for name, p in weights.items()})):
        if bad := [name for name, tensor in tensors.items() if not all_finite([tensor])]:
            return f"{len(bad)} of {len(tensors)} {what} hold numbers that are not finite, {bad[0]!r} first. "
    found: list[str] = []

    def look(module: nn.Module, args: tuple, output: Any) -> None:
        tensors = [x for x in (output if isinstance(output, (tuple, list)) else [output]) if torch.is_tensor(x)]
        if not found and not all_finite(tensors):
            largest = max((x.abs().max().item() for x in args if torch.is_tensor(x)), default=0.0)
            name = next(name for name, other in model.named_modules() if other is module)
            found.append(f"{name!r} ({type(module).__name__}, {tensors[0].dtype}; its largest input is {largest:.3g})")

    with ExitStack() as hooks, suppress(Exception), torch.no_grad():
        for module in model.modules():
            hooks.callback(module.register_forward_hook(look).remove)
        if forward is not None:
            forward()
    return f"The first output that is not finite is that of {found[0]}. " if found else ""
