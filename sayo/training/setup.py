"""From a recipe to the objects of a run: the check of what it names, then policy, processor, data and functions."""

import dataclasses
import functools
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable
from enum import EnumMeta
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError
from peft import LoraConfig
from pydantic import TypeAdapter, ValidationError
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedModel

from sayo.processors import load_auto_processor, named_model, set_limits
from sayo.prompts import suffix_text, with_suffix
from sayo.recipes import DataSection, ModelSection, Recipe, RecipeError, RewardSection, ShaperSection, did_you_mean
from sayo.training.config import AnchoredSFTConfig, RegionGRPOConfig
from sayo.training.credit import check_gates
from sayo.training.pictures import named, readable
from sayo.training.rows import holds_pictures, load_linked

_PLAIN = {int, float, bool, type(None)}


def check_recipe(recipe: Recipe) -> None:
    """Check what only the trainers and the functions know; loads no model and no data.

    Raises:
        RecipeError: a key of `trainer:` that the trainer's config does not have, or has of another type; a function
            that cannot be imported, an option that it does not take, a gate that could not open, an `output_dir` that
            cannot be a folder, or settings that exclude each other.
    """
    _check_trainer(recipe)
    fields = [item.name for item in dataclasses.fields(trainer_config_class(recipe)) if item.init]
    names = {"trainer": (recipe.trainer, fields)}
    sections: dict[str, Any] = {f"rewards.{name}": section for name, section in recipe.rewards.items()}
    if recipe.advantage_shaper is not None:
        sections["advantage_shaper"] = recipe.advantage_shaper
    for path, section in sections.items():
        # Reward functions take **kwargs, so a misspelt option would pass unseen.
        parameters = inspect.signature(import_function(section.function, f"{path}.function")).parameters.values()
        names[f"{path}.options"] = (section.options, [p.name for p in parameters if p.kind is not p.VAR_KEYWORD])
    for path, (given, known) in names.items():
        for name in given:
            if name not in known:
                raise RecipeError(f"Unknown recipe key `{path}.{name}`.{did_you_mean(name, known)}")
    gates = [section.gate for section in recipe.rewards.values()]
    check_gates(gates, list(recipe.rewards), recipe.trainer.get("objective_gate", "always"))


def _check_trainer(recipe: Recipe) -> None:
    for key, hint in get_type_hints(trainer_config_class(recipe)).items():
        kinds = set(get_args(hint) or (hint,))
        plain = hint if kinds <= _PLAIN else next((kind for kind in kinds if isinstance(kind, EnumMeta)), None)
        if plain is not None and recipe.trainer.get(key) is not None:
            try:
                TypeAdapter(plain).validate_python(recipe.trainer[key])
            except ValidationError as error:
                found = f"{error.errors()[0]['msg']}; got {recipe.trainer[key]!r}."
                raise RecipeError(f"`trainer.{key}`: {found}") from None
    output_dir = Path(recipe.trainer["output_dir"])
    if not next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists()).is_dir():
        raise RecipeError(f"`trainer.output_dir: {output_dir}` cannot be a folder: there is a file of that name.")
    if recipe.trainer.get("sync_ref_model") and recipe.model.lora is not None:
        raise RecipeError(
            "`trainer.sync_ref_model` moves a second copy of the policy, and with `model.lora` there is none: the "
            "reference is the base model without the adapter. Leave one of them out (model.lora=null)."
        )


def trainer_config_class(recipe: Recipe) -> type:
    return RegionGRPOConfig if recipe.rewards else AnchoredSFTConfig


def import_function(dotted: str, key: str) -> Callable:
    """Import `package.module.function`; a RecipeError names the recipe's `key`."""
    try:
        return pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError, ValueError) as error:
        searched = "installed packages, the recipe's folder and the current one"
        raise RecipeError(f"`{key}: {dotted}` cannot be imported from {searched}: {error}") from None


def load_processor(section: ModelSection) -> Any:
    """The model's processor with the recipe's pixel limits, padding on the left as generation needs it."""
    processor = load_auto_processor(section.name_or_path)
    if section.size:
        set_limits(processor.image_processor, section.size)
    return processor


def load_policy(section: ModelSection) -> PreTrainedModel:
    """Load the weights and freeze what the recipe says; RecipeError for an unknown dtype or a missing package."""
    options = {"dtype": torch_dtype(section), "attn_implementation": section.attn_implementation, **section.load}
    try:
        with named_model(section.name_or_path):
            policy = AutoModelForImageTextToText.from_pretrained(section.name_or_path, **options)
    except ImportError as error:  # a kernel or a quantization whose package is not installed
        raise RecipeError(f"`model` cannot be loaded: {error}") from None
    return freeze_vision(policy) if section.freeze_vision else policy


def torch_dtype(section: ModelSection) -> torch.dtype:
    """The dtype of the weights; RecipeError where torch has no such dtype."""
    dtype = getattr(torch, section.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise RecipeError(f"`model.dtype: {section.dtype}` is not a torch dtype: use bfloat16, float16 or float32.")
    return dtype


def freeze_vision(policy: PreTrainedModel) -> PreTrainedModel:
    """Freeze all but the language model: families name their towers, projectors and separators differently."""
    language = {id(parameter) for part in _language_parts(policy) for parameter in part.parameters()}
    for parameter in policy.parameters():
        if id(parameter) not in language:
            parameter.requires_grad_(False)
    return policy


def _language_parts(policy: PreTrainedModel) -> list[nn.Module]:
    """The decoder and the head: what is not vision."""
    return [part for part in (policy.get_decoder(), policy.get_output_embeddings()) if part is not None]


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


def lora_config(section: ModelSection, policy: PreTrainedModel) -> LoraConfig | None:
    """peft's config of the recipe's `lora`; with `freeze_vision`, adapters stay in the language model."""
    if section.lora is None:
        return None
    settings = dict(section.lora)
    if section.freeze_vision:
        kept = _language_parts(policy)
        names = [re.escape(name) for name, module in policy.named_modules() if any(module is part for part in kept)]
        settings.setdefault("exclude_modules", rf"(?!({'|'.join(names)})(\.|$)).*")
    return LoraConfig(task_type="CAUSAL_LM", **settings)


def load_data(section: DataSection, split: str) -> Dataset:
    """Rows of `split`, with the recipe's system prompt in front and its suffix under the question.

    A picture that cannot be read is a `BadPicture` when its row is met, or with `on_bad_image: skip` no row.

    Raises:
        RecipeError: the path is neither a folder of `sayo prepare`, nor parquet files, nor a data set on the hub; or
            an unknown suffix.
    """
    rows = _load_rows(section.path, split)
    if section.max_samples is not None:
        rows = rows.select(range(min(section.max_samples, len(rows))))
    if section.on_bad_image == "skip":
        rows = readable(rows)
    if section.system_prompt:
        system = {"role": "system", "content": section.system_prompt}
        rows = rows.map(lambda row: {"prompt": [system, *row["prompt"]]}, desc="system prompt")
    if section.user_suffix:
        try:
            suffix = suffix_text(section.user_suffix)
            size = lambda row: next(iter(row.get("image_sizes") or ()), None)  # noqa: E731
            rows = rows.map(lambda row: {"prompt": with_suffix(row["prompt"], suffix, size(row))}, desc="user suffix")
        except ValueError as error:
            raise RecipeError(f"`data.user_suffix`: {error}") from None
    return named(rows)


def count_rows(section: DataSection) -> int:
    """How many rows the training split has for a run; nothing is decoded."""
    return min(len(_load_rows(section.path, section.split)), section.max_samples or sys.maxsize)


def data_files(name: str, split: str) -> list[Path]:
    """The files of a prepared folder's split, or the one that `name` is; empty for a data set on the hub."""
    path = Path(name)
    return sorted(path.glob(f"data/{split}-*.parquet")) if path.is_dir() else [path] if path.is_file() else []


def _load_rows(name: str, split: str) -> Dataset:
    path = Path(name)
    if path.is_dir():
        # Never `load_dataset(folder)`: its cache knows a folder by name only, and would hand out another `prepared`.
        files = data_files(name, split)
        if not files:
            raise RecipeError(f"`data.path: {path}` has no split {split!r} (no data/{split}-*.parquet).")
        if holds_pictures(files[0]):
            return load_linked(files, split)
        return load_dataset("parquet", data_files={split: [str(file) for file in files]}, split=split)
    if path.is_file() and path.suffix == ".parquet":
        return load_dataset("parquet", data_files={split: name}, split=split)
    if path.suffix == ".parquet" or path.is_absolute() or name.count("/") != 1:
        raise RecipeError(
            f"`data.path: {path}` does not exist. `sayo prepare --help` shows how (the toy's: make demo)."
        )
    try:
        return load_dataset(name, split=split)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise RecipeError(f"`data.path: {name}` is neither a folder here nor a data set on the hub: {error}") from None


def bound_function(section: RewardSection | ShaperSection, path: str) -> Callable:
    """A section's function with its options bound; it keeps attributes such as `needs_maps`.

    The last word of `path`, the section's key in the recipe, becomes its name, under which TRL logs a reward.
    """
    function = import_function(section.function, f"{path}.function")
    bound = functools.update_wrapper(functools.partial(function, **section.options), function)
    bound.__name__ = path.rpartition(".")[2]
    return bound
