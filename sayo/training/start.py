"""What a run is started with: recipe, data, base model, versions; and in what a later start of it may differ.

A checkpoint holds the description of its start in `start.json`. A start that resumes from it is compared key by key:
`start_keys.yaml` says which changes are applied; every other one is refused by name.
"""

import dataclasses
import fnmatch
import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache
from xxhash import xxh3_128

from sayo.recipes import Recipe, RecipeError
from sayo.training import checkpoints
from sayo.training.launch import versions
from sayo.training.setup import data_files, trainer_config_class

FILE = "start.json"
_LISTS = yaml.safe_load(Path(__file__).with_name("start_keys.yaml").read_text())


def describe(recipe: Recipe) -> dict[str, Any]:
    """Recipe, digests of the data's files and of the base model's weights (None where they are not here), versions.

    Reads those files once.
    """
    description = {
        "recipe": recipe.model_dump(exclude={"trainer": {"hub_token"}}),
        "data": _digest_of(data_files(recipe.data.path, recipe.data.split)),
        "base_model": weights_digest(recipe.model.name_or_path, recipe.model.load.get("revision")),
        "versions": versions(),
        "changes": [],
    }
    return json.loads(json.dumps(description))  # as it will be read again


def weights_digest(name: str, revision: str | None = None) -> str | None:
    """Of a model's safetensors files; None where `name` is neither a folder with such nor in the hub's cache."""
    folder = Path(name)
    if not folder.is_dir():
        config = try_to_load_from_cache(name, "config.json", revision=revision) if name.count("/") == 1 else None
        folder = Path(config).parent if isinstance(config, str) else folder
    return _digest_of(sorted(folder.glob("*.safetensors")))


def _digest_of(files: list[Path]) -> str | None:
    if not files:
        return None
    each = checkpoints.digests(files[0].parent, [file.name for file in files])
    return xxh3_128(json.dumps(sorted(each.items())).encode()).hexdigest()


def write(folder: Path, description: dict[str, Any]) -> None:
    (folder / FILE).write_text(json.dumps(description, indent=1))


def changes(checkpoint: Path, now: dict[str, Any], recipe: Recipe) -> list[dict[str, Any]]:
    """In what this start differs from the one that wrote `checkpoint`: `step`, `key`, `before` and `now` of each.

    They follow those of earlier starts in `now["changes"]`. Nothing is compared where the checkpoint has no
    description, or is none to resume from (which the trainer says).

    Raises:
        RecipeError: a key differs that cannot change within a run.
        CheckpointError: the description is damaged.
    """
    if not checkpoints.is_complete(checkpoint) or not (checkpoint / FILE).is_file():
        return []
    checkpoints.check_digests(checkpoint, checkpoints.read_marker(checkpoint), (FILE, "trainer_state.json"))
    before, state = (json.loads((checkpoint / name).read_text()) for name in (FILE, "trainer_state.json"))
    fields = (field for field in dataclasses.fields(trainer_config_class(recipe)) if field.init)
    defaults = {f"trainer.{f.name}": f.default_factory() if callable(f.default_factory) else f.default for f in fields}
    old, new = (defaults | _keys(description, before, now) for description in (before, now))
    found = [
        {"step": state["global_step"], "key": key, "before": old.get(key), "now": new.get(key)}
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and not is_listed(key, "ignored")
    ]
    if refused := [change for change in found if not _is_applied(change)]:
        raise RecipeError(
            f"{checkpoint} was trained with another start, and this cannot change within a run: "
            f"{'; '.join(map(sentence, refused))}. Put it back; or start anew in another folder "
            f"(trainer.output_dir=NEW_FOLDER); or start a new run from the weights: sayo export {checkpoint} --out "
            "WEIGHTS, then model.name_or_path=WEIGHTS trainer.output_dir=NEW_FOLDER."
        )
    now["changes"] = [*before["changes"], *found]
    return found


def sentence(change: dict[str, Any]) -> str:
    """Such as `trainer.learning_rate from 0.001 to 0.0001`."""
    return f"{change['key']} from {change['before']} to {change['now']}"


def is_listed(key: str, name: str) -> bool:
    """Whether a list of `start_keys.yaml` names the key."""
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in _LISTS[name])


def _is_applied(change: dict[str, Any]) -> bool:
    if change["key"] in ("trainer.beta", "trainer.objective_weight") and 0 in (change["before"], change["now"]):
        return False  # what was generated for the next steps lacks the reference's log-probabilities, or the region
    return is_listed(change["key"], "optimizer") or is_listed(change["key"], "applied")


def _keys(description: dict[str, Any], *both: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value; data and model are what their files hold, wherever they lie, if both starts could read."""
    recipe = description["recipe"]
    parts = {name: recipe[name] for name in ("model", "data", "trainer")} | {"versions": description["versions"]}
    parts |= {f"rewards.{name}": section for name, section in recipe["rewards"].items()}
    keys = {f"{part}.{key}": value for part, section in parts.items() for key, value in section.items()}
    keys["advantage_shaper"] = recipe["advantage_shaper"]
    for digest, path in (("data", "data.path"), ("base_model", "model.name_or_path")):
        if all(one[digest] for one in both):
            keys[path] = f"the files {description[digest]}"
    return keys
