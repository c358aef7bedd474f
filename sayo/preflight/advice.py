"""What can be changed in a recipe that needs too much memory, in the order in which to try it."""

import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from sayo.preflight.estimate import Estimate, Price, reprice
from sayo.preflight.policy import load_config
from sayo.preflight.setting import Setting, TokenCount, setting_of
from sayo.recipes import ModelSection, Recipe, parse_recipe

WORTHWHILE = 0.995  # of the peak: less than half a percent is no saving
ORDER = ("ddp", "zero1", "zero2", "zero3")
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def sharding_for(recipe: Recipe) -> str:
    """The file of recipes/accelerate that `sayo launch` takes for a recipe, and that recipes and pages name.

    On 8 GPUs of 80 GiB these are the fastest that fit 8B models (docs/scale.md); `sayo preflight` knows others better.
    """
    if recipe.trainer.get("use_cpu"):
        return "cpu"
    return "zero1" if recipe.model.lora is not None else "zero3"


def changes(setting: Setting, model: ModelSection) -> Iterator[tuple[dict[str, Any], str]]:
    """Keys of the recipe (or `sharding`) with their new values, and what the change costs.

    First the changes that cost nothing in quality, then the others.
    """
    micro = setting.micro_batch
    if not setting.checkpointing:
        yield {"trainer.gradient_checkpointing": True}, "one more forward in every backward"
    if micro > 1:
        size = micro // 2 if micro % 2 == 0 else 1
        accumulation = setting.accumulation * micro // size
        batch = {"trainer.per_device_train_batch_size": size, "trainer.gradient_accumulation_steps": accumulation}
        if micro * setting.accumulation != setting.generation_batch > 0:
            batch["trainer.steps_per_generation"] = setting.generation_batch // size
        yield batch, "same batch in more, smaller pieces"
    half, odd = divmod(setting.generation_batch // micro, 2)
    whole_groups = half and not odd and micro * half * setting.gpus % setting.num_generations == 0
    if setting.engine == "transformers" and whole_groups:
        yield {"trainer.steps_per_generation": half}, "generates more often; decoding less efficient"
    for kind in ORDER[ORDER.index(setting.sharding) + 1 :] if setting.sharding in ORDER and setting.gpus > 1 else ():
        yield {"sharding": kind}, "gathers the weights in every forward" if kind == "zero3" else "no slower"
    if setting.sharding == "zero3" and setting.gather_to_generate:
        yield {"trainer.ds3_gather_for_generation": False}, "generation becomes many times slower"
    if setting.vllm_share and not setting.vllm_sleeps:
        yield {"trainer.vllm_enable_sleep_mode": True}, "vLLM sleeps while training"
    if (share := round(setting.vllm_share - 0.1, 2)) >= 0.1:
        yield {"trainer.vllm_gpu_memory_utilization": share}, "fewer sequences are decoded at once"
    if limit := (model.size or {}).get("longest_edge"):
        yield {"model.size": {**model.size, "longest_edge": limit // 2}}, "prepare the data again; small objects blur"
    if (half := setting.completion_tokens // 2) >= 32:
        yield {"trainer.max_completion_length": half}, "longer answers are cut off"
    if setting.reference == "copy":
        yield {"trainer.beta": 0.0}, "no KL term, no reference model"
    if model.lora is None:
        yield {"model.lora": LORA}, "adapters learn less than all weights"


def typed(overrides: dict[str, Any]) -> str:
    """Overrides as they are typed on the command line."""

    def word(key: str, value: Any) -> str:
        if key == "sharding":
            return f"--sharding {value}"
        plain = yaml.safe_dump(value, default_flow_style=True, sort_keys=False).removesuffix("...\n").strip()
        return shlex.quote(f"{key}={plain}")

    return " ".join(word(key, value) for key, value in overrides.items())


def out_of_memory_advice(recipe: Recipe, num_processes: int, sharding: str) -> str:
    """What to change in a recipe that ran out of memory, one numbered line per change, the first to try first.

    Args:
        sharding: `"none"`, `"DDP"`, `"ZeRO-1"` to `"ZeRO-3"` or `"FSDP"`, however it is spelt.
    """
    kind = sharding.lower().replace("-", "")
    kind = {"none": "ddp", "fsdp": "fsdp2"}.get(kind, kind)
    unknown = TokenCount(1, 1, 1, 1)  # which changes there are does not depend on token counts
    setting = setting_of(recipe, unknown, load_config(recipe.model.name_or_path), num_processes, kind)
    lines = [f"  {i}. {typed(keys)} ({note})" for i, (keys, note) in enumerate(changes(setting, recipe.model), 1)]
    return "\n".join(["Change, in this order, until it fits (`sayo preflight` prices each):", *lines])


def until_it_fits(estimate: Estimate) -> list[tuple[str, Price, str]]:
    """Changes made one after the other until the recipe fits, or none is left: as typed, the price then, its note.

    Always the first one in the order that lowers what the earlier ones left; each once, and of several launch
    configurations the last one counts.
    """
    current, made, steps = estimate.chosen, {}, []
    while not current.fits:
        for keys, note in changes(current.setting, _apply(estimate.recipe, made).model):
            if made.keys() & keys.keys() - {"sharding"}:
                continue
            both = {**made, **keys}
            sharding = both.get("sharding", current.setting.sharding)
            after = reprice(estimate, _apply(estimate.recipe, both), sharding)
            if after.peak < WORTHWHILE * current.peak:
                current, made = after, both
                steps.append((typed(keys), after, note))
                break
        else:
            break
    return steps


def _apply(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    values = recipe.model_dump()
    for key, value in overrides.items():
        if key != "sharding":
            section, name = key.split(".")
            values[section][name] = value
    return parse_recipe(values)
