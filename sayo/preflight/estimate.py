"""From a recipe to its price: memory and time under every sharding, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sayo.errors import SayoError
from sayo.preflight.memory import memory_of
from sayo.preflight.policy import MetaPolicy, load_config
from sayo.preflight.setting import SHARDINGS, Setting, TokenCount, count_tokens, setting_of
from sayo.preflight.sharding import static_bytes
from sayo.preflight.timing import Hardware, step_time
from sayo.recipes import Recipe

GIB = 2**30
MODELLED = ("qwen2_5_vl", "qwen3_vl")


class UnmodelledFamilyError(SayoError):
    """A family whose activations preflight does not model; the message gives what does not depend on them."""


@dataclass(frozen=True)
class Price:
    """What a setting costs on one GPU.

    phases: bytes by phase and item. time: seconds of a step by part. available: bytes that tensors can have.
    """

    setting: Setting
    phases: dict[str, dict[str, int]]
    time: dict[str, float]
    available: int

    @property
    def worst_phase(self) -> str:
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def peak(self) -> int:
        return sum(self.phases[self.worst_phase].values())

    @property
    def fits(self) -> bool:
        return self.peak <= self.available

    @property
    def seconds(self) -> float:
        return sum(self.time.values())


@dataclass
class Estimate:
    """A recipe's price on `gpus` GPUs under every sharding; `chosen` is the one asked for, else the best."""

    recipe: Recipe
    policy: MetaPolicy
    tokens: TokenCount
    gpus: int
    hardware: Hardware
    prices: dict[str, Price] = field(default_factory=dict)
    chosen: Price | None = None


def estimate(
    recipe: Recipe,
    gpus: int = 8,
    hardware: Hardware | None = None,
    sharding: str | None = None,
    policy: MetaPolicy | None = None,
    tokens: TokenCount | None = None,
) -> Estimate:
    """Price a recipe without loading weights.

    Args:
        gpus: in the whole run.
        sharding: one of `SHARDINGS`; by default the fastest that fits.
        policy, tokens: instead of those of the recipe's model and data.

    Raises:
        RecipeError: no config or data to be had, or sizes that do not divide.
        UnmodelledFamilyError: see `MODELLED`.
    """
    from sayo.training.setup import check_recipe

    check_recipe(recipe)
    policy = policy or MetaPolicy(recipe.model, load_config(recipe.model.name_or_path))
    config = policy.config
    if config.model_type not in MODELLED:
        setting = setting_of(recipe, TokenCount(0, 0, 0, 0), config, gpus, sharding or "zero1")
        raise UnmodelledFamilyError(_what_is_known(policy, setting))
    result = Estimate(recipe, policy, tokens or count_tokens(recipe, config), gpus, hardware or Hardware())
    kinds = dict.fromkeys((*SHARDINGS, sharding or "ddp"))
    result.prices = {kind: reprice(result, recipe, kind) for kind in kinds}
    result.chosen = result.prices[sharding] if sharding else best(result.prices.values())
    return result


def reprice(estimate: Estimate, recipe: Recipe, sharding: str) -> Price:
    """Price a variant of the estimate's recipe."""
    policy, tokens, hardware = estimate.policy, estimate.tokens, estimate.hardware
    if recipe.model.lora != estimate.recipe.model.lora:
        policy = MetaPolicy(recipe.model, policy.config)
    if recipe.model.size != estimate.recipe.model.size:
        tokens = count_tokens(recipe, policy.config)
    setting = setting_of(recipe, tokens, policy.config, estimate.gpus, sharding)
    # CUDA's context and what fragmentation wastes are not for tensors.
    available = round((hardware.gpu_gib - hardware.context_gib) * GIB * (1 - hardware.fragmentation))
    phases = memory_of(policy, setting, round(hardware.gpu_gib * GIB))
    return Price(setting, phases, step_time(policy, setting, hardware), available)


def best(prices: Iterable[Price]) -> Price:
    """The fastest that fits, the smaller of equally fast ones; the smallest where none fits."""
    fitting = [price for price in prices if price.fits]
    if fitting:
        return min(fitting, key=lambda price: (round(price.seconds, 2), price.peak))
    return min(prices, key=lambda price: price.peak)


def _what_is_known(policy: MetaPolicy, setting: Setting) -> str:
    static = static_bytes(policy, setting)
    known = {"weights": static.weights + static.reference, "gradients": static.gradients}
    known["optimizer"] = static.optimizer + static.masters
    sizes = ", ".join(f"{name} {size / GIB:.1f} GiB" for name, size in known.items())
    return (
        f"Preflight models the activations of {' and '.join(MODELLED)} (dense decoders) only, not those of "
        f"{policy.config.model_type!r}, so it cannot say whether this recipe fits. What does not depend on them, on "
        f"each of {setting.gpus} GPUs under {setting.sharding}: {sizes}. Add activations, logits and the KV cache; "
        "`sayo train trainer.max_steps=2` measures them."
    )
