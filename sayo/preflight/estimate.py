"""From a recipe to its price: memory and time under every sharding, and whether it fits."""

from dataclasses import dataclass, field

from sayo.preflight.memory import memory_of
from sayo.preflight.policy import MetaPolicy, load_config
from sayo.preflight.setting import SHARDINGS, Setting, TokenCount, count_tokens, setting_of
from sayo.preflight.timing import Hardware, step_time
from sayo.recipes import Recipe, RecipeError
from sayo.training.setup import check_recipe

GIB = 2**30
MODELLED = ("qwen2_5_vl", "qwen3_vl")


@dataclass(frozen=True)
class Price:
    """What a setting costs on one GPU."""

    setting: Setting
    phases: dict[str, dict[str, int]]  # bytes by phase and item
    time: dict[str, float]  # seconds of a step by part
    available: int  # bytes that tensors can have

    @property
    def worst_phase(self) -> str:
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def worst(self) -> dict[str, int]:
        """Items of the phase at whose peak the memory is."""
        return self.phases[self.worst_phase]

    @property
    def peak(self) -> int:
        return sum(self.worst.values())

    @property
    def fits(self) -> bool:
        return self.peak <= self.available

    @property
    def seconds(self) -> float:
        return sum(self.time.values())

    @property
    def epoch_hours(self) -> float:
        return self.setting.steps_per_epoch * self.seconds / 3600


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
    """Price a recipe for `gpus` in the whole run, without loading weights.

    `sharding` is one of `SHARDINGS`, by default the fastest that fits; `policy` and `tokens` stand in for those of the
    recipe's model and data.
    """
    check_recipe(recipe)
    policy = policy or MetaPolicy(recipe.model, load_config(recipe.model.name_or_path))
    config = policy.config
    if config.model_type not in MODELLED:
        raise RecipeError(
            f"Preflight models the activations of {' and '.join(MODELLED)} (dense decoders) only, not those of "
            f"{config.model_type!r}, so it cannot say whether this recipe fits. Its weights take "
            f"{policy.weight_bytes / GIB:.1f} GiB; `sayo train trainer.max_steps=2` measures the rest."
        )
    result = Estimate(recipe, policy, tokens or count_tokens(recipe, config), gpus, hardware or Hardware())
    result.prices = {kind: reprice(result, recipe, kind) for kind in dict.fromkeys((*SHARDINGS, sharding or "ddp"))}
    result.chosen = result.prices[sharding] if sharding else min(result.prices.values(), key=_rank)
    return result


def _rank(price: Price) -> tuple:
    """The fastest that fits, the smaller of equally fast ones; the smallest where none fits."""
    return not price.fits, price.fits and round(price.seconds, 2), price.peak


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
