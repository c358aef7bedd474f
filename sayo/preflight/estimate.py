"""From a recipe to its price: tokens, parameters, memory, time and advice, in one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sayo.preflight.memory import Memory, memory_of
from sayo.preflight.policy import PartCount, Policy, load_config, meta_policy
from sayo.preflight.setting import SHARDINGS, Setting, setting_of
from sayo.preflight.timing import Hardware, StepTime, step_time
from sayo.preflight.tokens import TokenCount, count_tokens
from sayo.recipes import Recipe

GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """What a recipe costs on one of its GPUs.

    memory: with the chosen sharding; `sharded`: its static items and peak under every sharding.
    available: bytes of a GPU left to tensors, after the CUDA context and fragmentation.
    """

    recipe: Recipe
    policy: Policy
    setting: Setting
    tokens: TokenCount
    parts: dict[str, PartCount]
    memory: Memory
    sharded: dict[str, Memory]
    available: int
    gpu_bytes: int
    time: StepTime
    hardware: Hardware

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.available


def estimate(
    recipe: Recipe,
    *,
    gpus: int = 8,
    gpu_gib: float = 80.0,
    sharding: str = "zero1",
    device: str = "cuda",
    hardware: Hardware | None = None,
    config: Any | None = None,
    tokens: TokenCount | None = None,
) -> Estimate:
    """Price a recipe without loading weights.

    Args:
        gpus: in the whole run.
        gpu_gib: memory of one GPU in GiB, as `nvidia-smi` counts it.
        sharding: one of `SHARDINGS`.
        device: `"cuda"` or `"cpu"`.
        hardware: assumptions about speed; an H100's by default.
        config, tokens: instead of the model's own config and the data's counts.

    Raises:
        RecipeError: no config to be had, an unpriced family, or sizes that do not divide.
    """
    hardware = hardware or Hardware()
    config = load_config(recipe.model.name_or_path) if config is None else config
    policy = meta_policy(recipe.model, config)
    counted = tokens or count_tokens(recipe, config)
    layers = config.get_text_config().num_hidden_layers
    launch = {"gpus": gpus, "sharding": sharding, "device": device}
    setting = setting_of(recipe, counted.longest, counted.typical, layers, counted.samples, **launch)
    gpu_bytes = round(gpu_gib * GIB)
    sharded = {kind: memory_of(policy, setting.change(sharding=kind), gpu_bytes) for kind in SHARDINGS}
    return Estimate(
        recipe=recipe,
        policy=policy,
        setting=setting,
        tokens=counted,
        parts=policy.parts(),
        memory=sharded[sharding],
        sharded=sharded,
        available=usable(gpu_bytes, hardware),
        gpu_bytes=gpu_bytes,
        time=step_time(policy, setting, hardware),
        hardware=hardware,
    )


def usable(gpu_bytes: int, hardware: Hardware) -> int:
    """Bytes of a GPU left to tensors: without the CUDA and NCCL context, and without what fragmentation wastes."""
    return round((gpu_bytes - hardware.context_gib * GIB) * (1 - hardware.fragmentation))


def repriced(estimate: Estimate, setting: Setting | None = None, **section: Any) -> Memory:
    """Peak memory after a change of the setting, or of the recipe's model section."""
    policy = estimate.policy
    if section:
        policy = meta_policy(estimate.recipe.model.model_copy(update=section), policy.config)
    return memory_of(policy, setting or estimate.setting, estimate.gpu_bytes)
