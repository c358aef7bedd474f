"""What a checkpoint folder holds: its kind, its base model, the recipe and the log of the run that wrote it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from safetensors import safe_open
from transformers.utils import cached_file

from sayo.errors import SayoError

Kind = Literal["full", "adapter", "zero", "fsdp"]

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
RECIPE = "recipe.yaml"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FSDP_SHARDS = "pytorch_model_fsdp_0"  # the folder that accelerate gives a sharded FSDP state dict


class ExportError(SayoError):
    """The export was refused; the message says why and what to do next. No output folder was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        folder: the checkpoint itself.
        kind: `"full"` (a `transformers` model), `"adapter"` (a `peft` adapter), `"zero"` (DeepSpeed shards without
            gathered weights) or `"fsdp"` (sharded FSDP state dict).
        base: folder or hub id of the model that training started from, if it is known.
        revision: revision of a hub `base`, if the adapter names one.
        run: the folder of the run that wrote it: the one with the recipe, else the checkpoint itself.
        recipe: the resolved recipe of the run (`recipe.yaml`), empty when the run left none.
        trainer_state: the trainer's `trainer_state.json`, empty when absent.
    """

    folder: Path
    kind: Kind
    base: str | None
    revision: str | None
    run: Path
    recipe: dict[str, Any]
    trainer_state: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path, base_model: str | None = None) -> Checkpoint:
        """Look at `folder` without loading weights. `base_model` wins over what the checkpoint says.

        Raises:
            ExportError: the folder is not a checkpoint, or its weights are only there as a pickle.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ExportError(f"{folder} is not a folder. Name a checkpoint, e.g. runs/toy/checkpoint-40.")
        kind = _kind(folder)
        # The final model lies in the run's folder, other checkpoints one below it.
        run = next((path for path in (folder, folder.absolute().parent) if (path / RECIPE).is_file()), folder)
        recipe = yaml.safe_load((run / RECIPE).read_text(encoding="utf-8")) if (run / RECIPE).is_file() else {}
        state = folder / "trainer_state.json"
        adapter = json.loads((folder / ADAPTER_CONFIG).read_text()) if kind == "adapter" else {}
        return cls(
            folder=folder,
            kind=kind,
            base=base_model or adapter.get("base_model_name_or_path") or recipe.get("model", {}).get("name_or_path"),
            revision=None if base_model else adapter.get("revision"),
            run=run,
            recipe=recipe,
            trainer_state=json.loads(state.read_text()) if state.is_file() else {},
        )


def _kind(folder: Path) -> Kind:
    if (folder / ADAPTER_CONFIG).is_file():
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise ExportError(f"{folder} has {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}: the save was not finished.")
        return "adapter"
    if (folder / WEIGHTS).is_file() or (folder / WEIGHTS_INDEX).is_file():
        return "full"
    if (folder / FSDP_SHARDS).is_dir():
        return "fsdp"
    if (folder / "latest").is_file() and any(folder.glob("global_step*")):
        return "zero"
    inner = sorted(folder.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    if inner:
        raise ExportError(f"{folder} is a run, not a checkpoint. Name one of its checkpoints, e.g. {inner[-1]}.")
    if any(folder.glob("*.bin")):
        raise ExportError(f"{folder} holds pickled weights (*.bin), which are not read. Save it as safetensors first.")
    raise ExportError(
        f"{folder} holds no weights: expected {WEIGHTS} (full fine-tuning), {ADAPTER_WEIGHTS} (LoRA), "
        f"global_step*/ (DeepSpeed) or {FSDP_SHARDS}/ (FSDP)."
    )


def tensor_names(model: str | Path, revision: str | None = None) -> set[str] | None:
    """Names of the tensors that a model's safetensors files hold, read from their headers.

    Returns None when `model` is neither a local folder nor in the local Hugging Face cache (nothing is downloaded).
    """
    for name in (WEIGHTS_INDEX, WEIGHTS):
        try:
            file = Path(cached_file(model, name, revision=revision, local_files_only=True))
        except OSError:
            continue
        return set(json.loads(file.read_text())["weight_map"]) if name == WEIGHTS_INDEX else stored_names(file)
    return None


def stored_names(file: Path) -> set[str]:
    """Names of the tensors of one safetensors file."""
    with safe_open(file, framework="pt") as tensors:
        return set(tensors.keys())


def display_name(model: str) -> str:
    """A hub id as it is; of a local folder only its own name, so that a card tells nothing of the machine."""
    return Path(model).name if Path(model).is_absolute() or Path(model).exists() else model
