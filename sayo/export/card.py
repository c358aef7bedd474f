"""The model card: collects what a training run left behind and renders `card.md.j2`."""

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader
from transformers import ProcessorMixin

from sayo.export.checkpoint import RECIPE, Checkpoint, display_name
from sayo.training.config import RegionGRPOConfig
from sayo.training.progress import first_and_last

HUB_ID = re.compile(r"^(?!runs/)[\w.-]+/[\w.-]+$")  # runs/demo is a run even if its folder no longer exists
SECRET = re.compile(r"token|secret|password|api_key", re.IGNORECASE)


def write_card(folder: Path, source: Checkpoint, processor: ProcessorMixin, name: str) -> None:
    """Write `folder/README.md`: how to use the model and how it was trained, leaving out what is unknown.

    And `folder/recipe.yaml`, in which `sayo.recipes.trained_layers` looks. `name` is the hub id or folder under which
    the quick start loads the model.
    """
    recipe = _public(source.recipe)
    base, data = source.base, source.recipe.get("data") or {}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True)
    trained_with = source.start.get("versions", {})
    packages = ("trl", "transformers", "peft", "torch", "datasets")
    exported_with = {"sayo": version("sayo-vlm")} | {name: version(name) for name in packages}
    environment.filters |= {"json": json.dumps, "listed": _listed, "yaml": yaml.safe_dump}
    card = environment.get_template("card.md.j2").render(
        name=name,
        base_id=_hub_id(base),
        data_id=_hub_id(data.get("path")),
        base=base and display_name(base),
        toy=type(processor).__name__.startswith("Toy"),
        size=dict(processor.image_processor.size or {}),
        recipe=recipe,
        trainer={"attention_layers": RegionGRPOConfig.attention_layers} | (recipe.get("trainer") or {}),
        steps=source.trainer_state.get("global_step"),
        metrics=first_and_last(source.trainer_state.get("log_history") or []),
        held_out=_held_out(source.run / "evaluation"),
        changes=_public(source.start.get("changes", [])),
        versions={name: v for name, v in trained_with.items() if name != "platform"} or exported_with,
        trained_with=trained_with,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    if recipe:
        (folder / RECIPE).write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _hub_id(name: str | None) -> str | None:
    """The name again if it is one on the hub, and no local folder."""
    return name if name is not None and HUB_ID.match(name) and not Path(name).exists() else None


def _held_out(folder: Path) -> dict[str, dict[str, Any]]:
    """ "before" and "after" training -> summary of the evaluation in the run's folder."""
    files = {moment: folder / moment / "summary.json" for moment in ("before", "after")}
    return {moment: json.loads(file.read_text()) for moment, file in files.items() if file.is_file()}


def _public(tree: Any) -> Any:
    """The recipe without secrets and without absolute paths."""
    if isinstance(tree, dict):
        return {k: _public(v) for k, v in tree.items() if not (SECRET.search(str(k)) and isinstance(v, str))}
    if isinstance(tree, list):
        return [_public(value) for value in tree]
    return Path(tree).name if isinstance(tree, str) and tree.startswith(("/", "~")) else tree


def _listed(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key} = {entry}" for key, entry in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
