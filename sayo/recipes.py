"""Recipes: YAML files composed by Hydra and checked key by key before anything is loaded.

The keys under `trainer:` are fields of the trainer's config, so a TRL recipe can be pasted. They, the rewards' options
and the gates are checked by `sayo.training.setup.check_recipe`.
"""

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from sayo.errors import SayoError

Gate = Literal["always", "correct", "group"]


class RecipeError(SayoError, ValueError):
    """The recipe asks for something that does not exist or cannot work."""


class Section(BaseModel, extra="forbid"):
    """Base of every part of a recipe: unknown keys are errors."""


class ModelSection(Section):
    """`model:` what is trained.

    name_or_path: local directory or hub id.
    dtype: of the loaded weights (`bfloat16`, `float32`, ...).
    attn_implementation: any kernel; attention is captured beside it.
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
    load: dict[str, Any] = Field(default_factory=dict)


class DataSection(Section):
    """`data:` what it is trained on.

    path: a folder written by `sayo prepare`, a parquet file, or a data set on the hub.
    split: of that data set.
    eval_split: held-out split for evaluation during training, or None.
    system_prompt: put in front of every prompt, or None.
    user_suffix: put under the question of every prompt: a format of `sayo.prompts.USER_SUFFIX` such as
        `semantic-back`, a text of your own, or None. Prompts that end with it already stay as they are.
    max_samples: use only the first so many rows, or None.
    on_bad_image: what is done about a picture that is missing or broken: `stop` when it is met, or `skip`: look at
        all rows before the start, leave those out and say how many.
    """

    path: str
    split: str = "train"
    eval_split: str | None = None
    system_prompt: str | None = None
    user_suffix: str | None = None
    max_samples: int | None = Field(default=None, ge=1)
    on_bad_image: Literal["stop", "skip"] = "stop"


class ShaperSection(Section):
    """`advantage_shaper:` which tokens of a completion its advantage is paid to.

    function: dotted path, one of `sayo.training.advantages` or your own.
    options: keyword arguments bound to the function.
    """

    function: str
    options: dict[str, Any] = Field(default_factory=dict)


class RewardSection(Section):
    """One entry of `rewards:`; its key is the name under which it is logged.

    function: dotted path of a TRL reward function, sayo's or your own.
    weight: factor in the sum.
    gate: `always`, or pay it only to completions that the reward `accuracy` pays (`correct`), or only in groups with
        such a completion (`group`).
    options: keyword arguments bound to the function.
    """

    function: str
    weight: float = 1.0
    gate: Gate = "always"
    options: dict[str, Any] = Field(default_factory=dict)


class Recipe(Section):
    """A resolved recipe.

    trainer: fields of the trainer's config, `output_dir` among them.
    rewards: empty for supervised tuning.
    resume: `auto` (the newest complete checkpoint of `output_dir`), `never`, or a checkpoint folder.
    """

    model: ModelSection
    data: DataSection
    trainer: dict[str, Any]
    rewards: dict[str, RewardSection] = Field(default_factory=dict)
    advantage_shaper: ShaperSection | None = None
    resume: str = Field(default="auto", coerce_numbers_to_str=True)

    @model_validator(mode="after")
    def _check_whole(self) -> "Recipe":
        if "output_dir" not in self.trainer:
            raise ValueError("`trainer.output_dir` is missing: say where the run is written.")
        if self.advantage_shaper is not None and not self.rewards:
            raise ValueError("`advantage_shaper` needs rewards: supervised tuning has no advantages.")
        return self

    def to_yaml(self) -> str:
        """The recipe as one flat file that can be launched again."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


SECTIONS = {"model": ModelSection, "data": DataSection, "rewards": RewardSection, "advantage_shaper": ShaperSection}


def recipes_dir() -> Path:
    """Where the shipped recipes lie: inside an installed wheel, or in the checkout."""
    packaged = Path(__file__).parent / "_recipes"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "recipes"


def recipe_names(group: str = "") -> list[str]:
    """Names that `--config-name` accepts, or the choices of a group such as `model`."""
    return sorted(path.stem for path in (recipes_dir() / group).glob("*.yaml"))


def model_section(name: str, size: str | None = None) -> ModelSection:
    """What a command line names as its model, with its pixel limits.

    Args:
        name: a folder, the name of a file in recipes/model (whose `name_or_path` and `size` are taken), or a hub id.
        size: edges that come before those of the file, and before the ones saved with the model:
            `longest_edge=1048576,shortest_edge=65536`.

    Raises:
        RecipeError: none of the three, or a size that is not in these words.
    """
    values: dict[str, Any] = {"name_or_path": name}
    if not Path(name).is_dir() and name in recipe_names("model"):
        file = yaml.safe_load((recipes_dir() / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
        values = {key: file.get(key) for key in ("name_or_path", "size")}
    check_model_name(values["name_or_path"])
    if size:
        values["size"] = {**(values.get("size") or {}), **_edges(size)}
    return ModelSection(**values)


def check_model_name(name: str) -> None:
    """RecipeError where `name` is neither a folder nor in the form of a hub id."""
    if not Path(name).is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        shipped = recipe_names("model")
        raise RecipeError(
            f"There is no model {name!r}: neither a folder here, nor a hub id (OWNER/NAME), nor a shipped model "
            f"({', '.join(shipped)})."
            + (f" In a recipe, say model={name}." if name in shipped else did_you_mean(name, shipped))
        )


def size_words(size: Mapping[str, int]) -> str:
    """The value of `--size` that means these edges."""
    return ",".join(f"{edge}={value}" for edge, value in size.items())


def _edges(words: str) -> dict[str, int]:
    try:
        edges = {edge.strip(): int(value) for edge, value in (pair.split("=") for pair in words.split(","))}
        if min(edges.values()) > 0:
            return edges
    except ValueError:
        pass
    raise RecipeError(f"--size {words!r} is not EDGE=NUMBER,... such as longest_edge=1048576,shortest_edge=65536")


def trained_layers(name: str) -> Any:
    """The `trainer.attention_layers` of a run, one of its checkpoints or its export: what it was trained to look with.

    None for any other model, and for supervised tuning without a loss on the attention.
    """
    folder = Path(name).absolute()
    files = [folder / "recipe.yaml", folder / "start.json"]
    if folder.name.startswith("checkpoint-"):
        files.append(folder.parent / "recipe.yaml")
    for file in filter(Path.is_file, files):
        recipe = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        recipe = recipe.get("recipe", recipe)
        trainer = recipe.get("trainer") or {}
        if recipe.get("rewards"):
            return trainer.get("attention_layers", "last")
        is_anchored = trainer.get("enhance_weight") or trainer.get("suppress_weight")
        return trainer.get("attention_layers", "all") if is_anchored else None
    return None


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Compose and resolve a recipe.

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

    file = Path(name) if name.endswith((".yaml", ".yml")) else recipes_dir() / f"{name}.yaml"
    if not file.is_file():
        raise RecipeError(f"There is no recipe {name!r}.{did_you_mean(name, recipe_names())} `sayo ls` lists them.")
    for folder in map(str, (file.resolve().parent, Path.cwd())):  # your own rewards lie beside your recipe, or here
        if folder not in sys.path:
            sys.path.append(folder)
    OmegaConf.register_new_resolver("basename", lambda path: Path(path).name, replace=True)  # for output_dir
    search = f"hydra.searchpath=[file://{recipes_dir()}]"
    try:
        with initialize_config_dir(str(file.resolve().parent), version_base="1.3"):
            config = compose(file.stem, overrides=[search, *map(_or_add, overrides)])
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        how = f"write it into the recipe, or add {error.full_key}=... to the command."
        raise RecipeError(f"Recipe {name!r} needs `{error.full_key}`: {how}") from None
    except (HydraException, OmegaConfBaseException) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise RecipeError(f"Recipe {name!r}: {str(error).strip()}{cause}") from None
    return parse_recipe({key: value for key, value in values.items() if value is not None})


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """The typed recipe of plain values; a RecipeError names every key that is unknown, missing or of another type."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(" ".join(_sentence(item) for item in error.errors())) from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word; empty where nothing known is close."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def _or_add(override: str) -> str:
    """`trainer.seed=3` also where the recipe has no such key yet: Hydra's `++`. Our own check names unknown keys."""
    key = override.partition("=")[0]
    is_group = (recipes_dir() / key).is_dir()
    return override if is_group or not key[:1].isalpha() else f"++{override}"


def _sentence(error: Mapping[str, Any]) -> str:
    path, message = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        section = SECTIONS[error["loc"][0]] if len(error["loc"]) > 1 else Recipe
        return f"Unknown recipe key `{path}`.{did_you_mean(error['loc'][-1], section.model_fields)}"
    if error["type"] == "missing":
        return f"The recipe has no `{path}`."
    return f"`{path}`: {message}; got {error['input']!r}." if path else message
