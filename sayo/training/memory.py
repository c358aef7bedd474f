"""Out of memory: say which keys of the recipe to change, in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sayo.recipes import Recipe
from sayo.training.launch import sharding


class OutOfMemory(RuntimeError):
    """The run did not fit; the message names the keys to change, in order."""


@contextmanager
def memory_advice(trainer: Any, recipe: Recipe) -> Iterator[None]:
    """Turn an out-of-memory error into the keys of the recipe to change, in order.

    Raises:
        OutOfMemory: in place of torch's error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        first = str(error).partition("\n")[0]
        advice = "\n".join(f"  {number}. {line}" for number, line in enumerate(_changes(trainer, recipe), 1))
        raise OutOfMemory(
            f"Out of memory: {first}\nChange, in this order, until it fits (`sayo preflight` prices each):\n{advice}"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's CPU allocator raises a plain RuntimeError
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(error) or "out of memory" in str(error).lower()


def _changes(trainer: Any, recipe: Recipe) -> list[str]:
    """The changes that `sayo preflight` prices, without their prices: those do not depend on token counts."""
    from sayo.preflight.setting import setting_of
    from sayo.preflight.tokens import Tokens
    from sayo.preflight.ways import ways

    kind = sharding(trainer).lower().replace("-", "")
    launch = {
        "gpus": trainer.args.world_size,
        "sharding": {"none": "ddp", "fsdp": "fsdp2"}.get(kind, kind),
        "device": trainer.args.device.type,
    }
    layers = trainer.model.config.get_text_config().num_hidden_layers
    any_tokens = Tokens(text=1, visual=1, images=1)
    setting = setting_of(recipe, any_tokens, any_tokens, layers, **launch)
    return [f"{way.change} ({way.note})" for way in ways(setting, recipe.model, token_pixels=1)]
