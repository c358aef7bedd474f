"""Recipes: YAML files composed by Hydra, checked key by key before anything is loaded.

A key under `trainer:` is a field of the trainer's config, so a TRL recipe can be pasted. Unknown keys fail by name.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sayo.errors import SayoError


class RecipeError(SayoError, ValueError):
    """A recipe that cannot be meant as it is written."""


@dataclass
class ModelSection:
    """`model:` what is trained.

    name_or_path: local directory or hub id.
    dtype: of the loaded weights (`bfloat16`, `float32`, ...).
    attn_implementation: any kernel; attention is read beside it.
    size: passed to the image processor's `size` (pixel limits), or None for the processor's own.
    lora: arguments of peft's `LoraConfig`, or None for full fine-tuning.
    freeze_vision: keep the vision tower and the projector as they are.
    load: further arguments of `from_pretrained`.
    """

    name_or_path: str
    dtype: str = "bfloat16"
    attn_implementation: str = "sdpa"
    size: dict[str, int] | None = None
    lora: dict[str, Any] | None = None
    freeze_vision: bool = False
    load: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataSection:
    """`data:` what it is trained on.

    path: a folder written by `sayo prepare`, parquet files, or a hub data set.
    split: of that data set.
    eval_split: held-out split for evaluation during training, or None.
    system_prompt: put in front of every prompt, or None.
    user_suffix: put under the question of every prompt: a format of `sayo.prompts.USER_SUFFIX` such as
        `semantic-back`, a text of your own, or None. Prompts that end with it already stay as they are.
    max_samples: use only the first so many rows, or None.
    """

    path: str
    split: str = "train"
    eval_split: str | None = None
    system_prompt: str | None = None
    user_suffix: str | None = None
    max_samples: int | None = None


@dataclass
class RewardSection:
    """One entry of `rewards:`; its key is the name under which it is logged.

    function: dotted path of a TRL reward function, sayo's or your own.
    weight: factor in the sum.
    gate: `always`, or pay it only to completions that the reward `accuracy` pays (`correct`), or only in groups with
        such a completion (`group`).
    options: keyword arguments bound to the function.
    """

    function: str
    weight: float = 1.0
    gate: str = "always"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ShaperSection:
    """`advantage_shaper:` which tokens of a completion its advantage is paid to.

    function: dotted path, one of `sayo.advantages` or your own.
    options: keyword arguments bound to the function.
    """

    function: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Recipe:
    """A resolved recipe. `trainer` holds fields of the trainer's config; `rewards` is empty for supervised tuning."""

    model: ModelSection
    data: DataSection
    trainer: dict[str, Any]
    rewards: dict[str, RewardSection] = field(default_factory=dict)
    advantage_shaper: ShaperSection | None = None
    resume: str = "auto"

    def to_yaml(self) -> str:
        """The recipe as one flat file that can be launched again."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)


def recipes_dir() -> Path:
    """Where the shipped recipes lie: inside an installed wheel, or in the checkout."""
    packaged = Path(__file__).parent / "_recipes"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """Names that `--config-name` accepts."""
    return sorted(path.stem for path in recipes_dir().glob("*.yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Compose, resolve and check a recipe.

    Args:
        name: a shipped recipe's name, or the path of your own YAML file (which may use the shipped groups).
        overrides: Hydra overrides such as `trainer.learning_rate=1e-6`, `rewards=both`, `+trainer.seed=3`.

    Raises:
        RecipeError: unknown recipe, group or key (named, with the closest known one), or a missing value.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    own = Path(name)
    is_file = own.suffix in (".yaml", ".yml")
    if is_file and not own.is_file():
        raise RecipeError(f"There is no recipe file {name}.")
    if not is_file and name not in recipe_names():
        raise RecipeError(f"Unknown recipe {name!r}.{_closest(name, recipe_names())} `sayo ls` lists them.")
    folder = own.resolve().parent if is_file else recipes_dir()
    search = [f"hydra.searchpath=[file://{recipes_dir()}]"] if is_file else []
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            config = compose(own.stem if is_file else name, overrides=[*search, *map(_or_add, overrides)])
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise RecipeError(
            f"Recipe {name!r} needs `{error.full_key}`: write it into the recipe, or add {error.full_key}=... to the "
            "command."
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise RecipeError(f"Recipe {name!r}: {str(error).strip()}{cause}") from None
    return check_recipe(resolved)


def check_recipe(values: Mapping[str, Any]) -> Recipe:
    """Build the typed recipe from plain values; every unknown key fails by its full name.

    Raises:
        RecipeError: see `load_recipe`.
    """
    values = dict(values)
    rewards, shaper = values.pop("rewards", None) or {}, values.pop("advantage_shaper", None)
    trainer = dict(values.pop("trainer", None) or {})
    _check_keys(values, Recipe, "")
    for key in ("model", "data"):
        if key not in values:
            raise RecipeError(f"The recipe has no section `{key}:`.")
    recipe = Recipe(
        model=_section(ModelSection, values.pop("model"), "model"),
        data=_section(DataSection, values.pop("data"), "data"),
        rewards={name: _section(RewardSection, entry, f"rewards.{name}") for name, entry in rewards.items()},
        advantage_shaper=_section(ShaperSection, shaper, "advantage_shaper") if shaper else None,
        trainer=trainer,
        **values,
    )
    _check_keys(trainer, trainer_config_class(recipe), "trainer")
    if "output_dir" not in trainer:
        raise RecipeError("The recipe has no `trainer.output_dir`: say where the run is written.")
    for name, entry in recipe.rewards.items():
        _check_options(entry, f"rewards.{name}")
    if recipe.rewards:
        _check_credit(recipe)
    elif recipe.advantage_shaper is not None:
        raise RecipeError("`advantage_shaper` needs rewards: supervised tuning has no advantages.")
    return recipe


def _check_options(entry: RewardSection | ShaperSection, path: str) -> None:
    function = resolve_function(entry.function, f"{path}.function")
    # Reward functions take **kwargs, so a misspelt option would pass unseen.
    named = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    _check_names(entry.options, named, f"{path}.options")


def _check_credit(recipe: Recipe) -> None:
    from sayo.training.credit import check_gates

    try:
        check_gates([entry.gate for entry in recipe.rewards.values()], list(recipe.rewards))
    except ValueError as error:
        raise RecipeError(f"`rewards`: {error}") from None
    if recipe.advantage_shaper is not None:
        _check_options(recipe.advantage_shaper, "advantage_shaper")


def trainer_config_class(recipe: Recipe) -> type:
    """`RegionGRPOConfig` where there are rewards, `AnchoredSFTConfig` where there are none."""
    if recipe.rewards:
        from sayo.training.config import RegionGRPOConfig

        return RegionGRPOConfig
    from sayo.training.sft_config import AnchoredSFTConfig

    return AnchoredSFTConfig


@cache
def resolve_function(dotted: str, key: str) -> Callable:
    """Import `package.module.function`.

    Raises:
        RecipeError: with the recipe key that names it.
    """
    module_name, _, attribute = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"`{key}: {dotted}` cannot be imported: {error}") from None


def _or_add(override: str) -> str:
    """`trainer.seed=3` also where the recipe has no such key yet: Hydra's `++`. Our own check names unknown keys."""
    key = override.partition("=")[0]
    is_group = (recipes_dir() / key).is_dir()
    return override if is_group or not key[:1].isalpha() else f"++{override}"


def _section(cls: type, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise RecipeError(f"`{path}` must be a mapping, got {values!r}.")
    _check_keys(values, cls, path)
    try:
        return cls(**values)
    except TypeError as error:
        raise RecipeError(f"`{path}`: {str(error).replace('__init__() ', '')}.") from None


def _check_keys(values: Mapping[str, Any], cls: type, path: str) -> None:
    _check_names(values, [item.name for item in dataclasses.fields(cls) if item.init], path)


def _check_names(values: Mapping[str, Any], known: Sequence[str], path: str) -> None:
    for key in values:
        if key not in known:
            full = f"{path}.{key}" if path else key
            raise RecipeError(f"Unknown recipe key `{full}`.{_closest(key, known)}")


def _closest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean `{near[0]}`?" if near else ""
