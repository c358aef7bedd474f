"""From a checked recipe to the objects of a run: policy, processor, data and reward functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError
from transformers import AutoModelForImageTextToText, PreTrainedModel

from sayo.processors import load_auto_processor
from sayo.prompts import suffix_text, with_suffix
from sayo.recipes import DataSection, ModelSection, Recipe, RecipeError, resolve_function


def load_processor(section: ModelSection) -> Any:
    """The model's processor with the recipe's pixel limits, padding on the left as generation needs it."""
    processor = load_auto_processor(section.name_or_path)
    if section.size is not None:
        # `from_pretrained` silently ignores limits when the saved config has a `size`: set them on the object.
        processor.image_processor.size = {**dict(processor.image_processor.size), **section.size}
    return processor


def load_policy(section: ModelSection) -> PreTrainedModel:
    """Load the weights; freeze the vision tower and the projector if the recipe says so.

    Raises:
        RecipeError: unknown dtype, or a package is missing (its message names it).
    """
    dtype = getattr(torch, section.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise RecipeError(f"`model.dtype: {section.dtype}` is no torch dtype: use bfloat16, float16 or float32.")
    try:
        policy = AutoModelForImageTextToText.from_pretrained(
            section.name_or_path, dtype=dtype, attn_implementation=section.attn_implementation, **section.load
        )
    except ImportError as error:  # a kernel or a quantization whose package is not installed
        raise RecipeError(f"`model` cannot be loaded: {error}") from None
    if section.freeze_vision:
        for name, parameter in policy.named_parameters():
            if any(part in name for part in ("visual", "vision_tower", "multi_modal_projector")):
                parameter.requires_grad_(False)
    return policy


def with_plain_key_names(trainer: Any) -> Any:
    """Make ZeRO-3 save the base model's key names.

    transformers 5.23 gives a model loaded under ZeRO-3 all renamings of its family instead of the ones that applied
    (`integrations/deepspeed.py`), so that Qwen2.5-VL would be saved as `model.model.*`.
    """
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if plugin is not None and plugin.zero_stage == 3:
        for module in trainer.accelerator.unwrap_model(trainer.model).modules():
            if getattr(module, "_weight_conversions", None):
                module._weight_conversions = None
    return trainer


def lora_config(section: ModelSection) -> Any:
    """peft's `LoraConfig`, or None for full fine-tuning."""
    if section.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", **section.lora)


def load_data(section: DataSection, split: str) -> Dataset:
    """Rows of `split`, with the recipe's system prompt in front and its suffix under the question.

    Raises:
        RecipeError: the path is neither a folder of `sayo prepare`, nor parquet files, nor a data set on the hub; or
            an unknown suffix.
    """
    path = Path(section.path)
    if path.is_dir():
        # Never `load_dataset(folder)`: its cache knows a folder by name only, and would hand out another `prepared`.
        files = sorted(str(file) for file in path.glob(f"data/{split}-*.parquet"))
        if not files:
            raise RecipeError(f"`data.path: {path}` has no split {split!r} (no data/{split}-*.parquet).")
        rows = load_dataset("parquet", data_files={split: files}, split=split)
    elif path.is_file() and path.suffix == ".parquet":
        rows = load_dataset("parquet", data_files={split: str(path)}, split=split)
    elif path.suffix != ".parquet" and not path.is_absolute() and section.path.count("/") == 1:
        rows = _load_from_hub(section.path, split)
    else:
        raise RecipeError(f"`data.path: {path}` does not exist. `sayo prepare --help` shows how to make it.")
    if section.max_samples is not None:
        rows = rows.select(range(min(section.max_samples, len(rows))))
    if section.system_prompt:
        system = {"role": "system", "content": section.system_prompt}
        rows = rows.map(lambda row: {"prompt": [system, *row["prompt"]]}, desc="system prompt")
    if section.user_suffix:
        try:
            suffix = suffix_text(section.user_suffix)
        except ValueError as error:
            raise RecipeError(f"`data.user_suffix`: {error}") from None
        rows = rows.map(lambda row: {"prompt": with_suffix(row["prompt"], suffix)}, desc="user suffix")
    return rows


def _load_from_hub(name: str, split: str) -> Dataset:
    try:
        return load_dataset(name, split=split)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise RecipeError(
            f"`data.path: {name}` is neither a folder here nor a data set on the hub ({error}). `sayo prepare --help` "
            "shows how to make one."
        ) from None


class BoundReward:
    """A reward function with the recipe's options bound and the recipe's name on it, as TRL logs it."""

    def __init__(self, function: Callable, name: str, options: dict[str, Any]):
        self._function = functools.partial(function, **options)
        self.__name__ = name

    def __call__(self, **kwargs) -> list[float | None]:
        return self._function(**kwargs)


def reward_functions(recipe: Recipe) -> tuple[list[BoundReward], list[float]]:
    """The recipe's reward functions, and their weights in the same order."""
    functions = [
        BoundReward(resolve_function(entry.function, f"rewards.{name}.function"), name, entry.options)
        for name, entry in recipe.rewards.items()
    ]
    return functions, [entry.weight for entry in recipe.rewards.values()]


def advantage_shaper(recipe: Recipe) -> Callable | None:
    """The recipe's advantage shaper with its options bound, or None."""
    section = recipe.advantage_shaper
    if section is None:
        return None
    function = resolve_function(section.function, "advantage_shaper.function")
    # The wrapper keeps the function's attributes, such as `needs_maps`.
    return functools.update_wrapper(functools.partial(function, **section.options), function)
