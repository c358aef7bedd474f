"""Out of memory: say which keys of the recipe to change, in order."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch


class OutOfMemory(RuntimeError):
    """The run did not fit; the message names the keys to change, in order."""


@contextmanager
def memory_advice(args: Any, model_section: Any):
    """Turn an out-of-memory error into the keys of the recipe to change, in order.

    Raises:
        OutOfMemory: in place of torch's error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        advice = "\n".join(f"  {number}. {line}" for number, line in enumerate(memory_knobs(args, model_section), 1))
        first = str(error).partition("\n")[0]
        raise OutOfMemory(f"Out of memory: {first}\nChange, in this order, until it fits:\n{advice}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's CPU allocator raises a plain RuntimeError
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(error) or "out of memory" in str(error).lower()


def memory_knobs(args: Any, model_section: Any) -> list[str]:
    """Keys that still have room, the cheapest in quality and speed first."""
    knobs = []
    if not args.gradient_checkpointing:
        knobs.append("trainer.gradient_checkpointing=true (a quarter slower, same result)")
    if args.per_device_train_batch_size > 1:
        half = args.per_device_train_batch_size // 2
        knobs.append(
            f"trainer.per_device_train_batch_size={half} "
            f"trainer.gradient_accumulation_steps={2 * args.gradient_accumulation_steps} (same batch, smaller pieces)"
        )
    if getattr(args, "use_vllm", False) and args.vllm_mode == "colocate":
        lower = max(args.vllm_gpu_memory_utilization - 0.1, 0.1)
        knobs.append(f"trainer.vllm_gpu_memory_utilization={lower:.1f} trainer.vllm_enable_sleep_mode=true")
    knobs.append("the next accelerate file: zero1 -> zero2 -> zero3 (shards what each GPU holds), or more GPUs")
    if model_section.lora is None:
        knobs.append("model.lora={r:16,lora_alpha:32,target_modules:all-linear} (far smaller optimizer)")
    edge = (model_section.size or {}).get("longest_edge")
    limit = f"{edge // 2}" if edge else "HALF"
    knobs.append(f"model.size.longest_edge={limit} (half the visual tokens; prepare the data again)")
    if hasattr(args, "max_completion_length"):
        knobs.append(f"trainer.max_completion_length={args.max_completion_length // 2} (shorter responses)")
    return knobs
