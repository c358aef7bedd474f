"""What can be changed in a recipe that needs too much memory, in the order in which to try it.

The one list behind the advice of `sayo preflight`, which prices it, and of a run that went out of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sayo.preflight.setting import Setting
from sayo.preflight.tokens import Tokens
from sayo.recipes import ModelSection


class Way(NamedTuple):
    """change: as it is typed; setting: after it; section: changed keys of the recipe's `model:`; note: its price."""

    change: str
    setting: Setting
    section: dict[str, Any]
    note: str


def ways(setting: Setting, model: ModelSection, token_pixels: int) -> Iterator[Way]:
    """First the changes that cost nothing in quality, then the others.

    Args:
        token_pixels: pixels of an image under one of its visual tokens.
    """
    if not setting.checkpointing:
        change = setting.change(checkpointing=True)
        yield Way("trainer.gradient_checkpointing=true", change, {}, "one more forward in every backward")
    if setting.micro_batch > 1:
        yield _smaller_batch(setting)
    if setting.generates_here and setting.generation_batch > setting.micro_batch:
        yield from _smaller_generation(setting)
    yield from _other_launch(setting)
    yield from _smaller_engine(setting)
    yield from _smaller_images(setting, model, token_pixels)
    if setting.completion_tokens > 64:
        half = setting.completion_tokens // 2
        change = setting.change(completion_tokens=half)
        yield Way(f"trainer.max_completion_length={half}", change, {}, "longer answers are cut off")
    if setting.reference == "copy":
        yield Way("trainer.beta=0", setting.change(reference="none"), {}, "no KL term, no reference model")
    if model.lora is None:
        change = setting.change(reference="adapter off" if setting.reference != "none" else "none")
        lora = {"lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}}
        words = "'model.lora={r: 16, lora_alpha: 32, target_modules: all-linear}'"
        yield Way(words, change, lora, "adapters learn less than all weights")


def _smaller_batch(setting: Setting) -> Way:
    size = setting.micro_batch // 2 if setting.micro_batch % 2 == 0 else 1
    accumulation = setting.accumulation * setting.micro_batch // size
    words = f"trainer.per_device_train_batch_size={size} trainer.gradient_accumulation_steps={accumulation}"
    change = setting.change(micro_batch=size, accumulation=accumulation)
    return Way(words, change, {}, "same batch in more, smaller pieces")


def _smaller_generation(setting: Setting) -> Iterator[Way]:
    """Generate a smaller batch at a time, as long as it still holds whole groups."""
    steps = setting.generation_batch // setting.micro_batch
    half = steps // 2
    if half and steps % 2 == 0 and setting.micro_batch * half * setting.gpus % setting.num_generations == 0:
        change = setting.change(generation_batch=setting.micro_batch * half)
        yield Way(f"trainer.steps_per_generation={half}", change, {}, "generates more often; decoding less efficient")


def _other_launch(setting: Setting) -> Iterator[Way]:
    order = ("ddp", "zero1", "zero2", "zero3")
    later = order[order.index(setting.sharding) + 1 :] if setting.sharding in order and setting.gpus > 1 else ()
    for kind in later:
        note = "gathers the weights in every forward" if kind == "zero3" else "no slower"
        yield Way(f"--config_file recipes/accelerate/{kind}.yaml", setting.change(sharding=kind), {}, note)
    if setting.sharding == "zero3" and setting.gather_to_generate and setting.generates_here:
        change = setting.change(gather_to_generate=False)
        yield Way("trainer.ds3_gather_for_generation=false", change, {}, "generation becomes many times slower")


def _smaller_engine(setting: Setting) -> Iterator[Way]:
    if setting.vllm_share and not setting.vllm_sleeps:
        change = setting.change(vllm_sleeps=True)
        yield Way("trainer.vllm_enable_sleep_mode=true", change, {}, "vLLM sleeps while training")
    lower = round(setting.vllm_share - 0.1, 2)
    if lower >= 0.1:
        change = setting.change(vllm_share=lower)
        yield Way(f"trainer.vllm_gpu_memory_utilization={lower}", change, {}, "fewer sequences are decoded at once")


def _smaller_images(setting: Setting, model: ModelSection, token_pixels: int) -> Iterator[Way]:
    """Half the pixels of the largest image."""
    limit = (model.size or {}).get("longest_edge")
    if not limit or not setting.longest.visual:
        return
    longest = setting.longest
    visual = min(longest.visual, max(1, limit // 2 // token_pixels) * longest.images)
    change = setting.change(longest=Tokens(longest.text, visual, longest.images))
    words = f"model.size.longest_edge={limit // 2}"
    yield Way(words, change, {}, "prepare the data again; small objects blur")
