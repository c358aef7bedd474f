"""The contents of a checkpoint folder: its kind, its base model, and the recipe and log of its training run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from transformers.utils import cached_file

from sayo.errors import SayoError

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
RECIPE = "recipe.yaml"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FSDP_SHARDS = "pytorch_model_fsdp_0"  # the folder that accelerate gives a sharded FSDP state dict


class ExportError(SayoError):
    """The export was refused and nothing was written; the message says why and what to do next."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        kind: `"full"` (a `transformers` model), `"adapter"` (a `peft` adapter), `"zero"` (DeepSpeed shards without
            gathered weights) or `"fsdp"` (sharded FSDP state dict).
        base: folder or hub id of the model that training started from, if known.
        revision: revision of a hub `base`.
        run: the run's folder, which holds the recipe; the checkpoint itself if there is no recipe.
        recipe: the run's resolved recipe (`recipe.yaml`), or empty.
        trainer_state: the trainer's `trainer_state.json`, or empty.
    """

    folder: Path
    kind: str
    base: str | None
    revision: str
    run: Path
    recipe: dict[str, Any]
    trainer_state: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path, base_model: str | None = None) -> "Checkpoint":
        """Inspect `folder` without loading weights. `base_model` overrides the base that the checkpoint names.

        Raises:
            ExportError: the folder is not a checkpoint, or its weights are pickled.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ExportError(f"{folder} is not a folder. Pass a checkpoint, e.g. runs/toy/checkpoint-40.")
        kind = _kind(folder)
        # The final model is in the run's folder itself, every other checkpoint one level below.
        run = next((path for path in (folder, folder.absolute().parent) if (path / RECIPE).is_file()), folder)
        recipe = yaml.safe_load((run / RECIPE).read_text(encoding="utf-8")) if (run / RECIPE).is_file() else {}
        state = folder / "trainer_state.json"
        adapter = json.loads((folder / ADAPTER_CONFIG).read_text()) if kind == "adapter" else {}
        return cls(
            folder=folder,
            kind=kind,
            base=base_model or adapter.get("base_model_name_or_path") or recipe.get("model", {}).get("name_or_path"),
            revision=(None if base_model else adapter.get("revision")) or "main",
            run=run,
            recipe=recipe,
            trainer_state=json.loads(state.read_text()) if state.is_file() else {},
        )


def _kind(folder: Path) -> str:
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
        raise ExportError(f"{folder} is a run, not a checkpoint. Pass one of its checkpoints, e.g. {inner[-1]}.")
    raise ExportError(
        f"{folder} holds no weights: expected {WEIGHTS} (full fine-tuning), {ADAPTER_WEIGHTS} (LoRA), "
        f"global_step*/ (DeepSpeed) or {FSDP_SHARDS}/ (FSDP). Pickled weights (*.bin) are not read."
    )


def tensor_names(model: str | Path, revision: str = "main") -> set[str] | None:
    """Names of the tensors in a model's safetensors files, read from their headers.

    Returns None if `model` is neither a local folder nor in the local Hugging Face cache (nothing is downloaded).
    """
    for name in (WEIGHTS_INDEX, WEIGHTS):
        try:
            file = Path(cached_file(model, name, revision=revision, local_files_only=True))
        except OSError:
            continue
        if name == WEIGHTS_INDEX:
            return set(json.loads(file.read_text())["weight_map"])
        with safe_open(file, framework="pt") as tensors:
            return set(tensors.keys())
    return None


def display_name(model: str) -> str:
    """A hub id unchanged; of a local folder only its name, so that the card does not reveal local paths."""
    return Path(model).name if Path(model).is_absolute() or Path(model).exists() else model
