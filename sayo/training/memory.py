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
        from sayo.preflight.advice import out_of_memory_advice

        advice = out_of_memory_advice(recipe, trainer.args.world_size, sharding(trainer))
        raise OutOfMemory(f"Out of memory: {first}\n{advice}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's CPU allocator raises a plain RuntimeError
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(error) or "out of memory" in str(error).lower()
