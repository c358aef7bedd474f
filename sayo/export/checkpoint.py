"""The contents of a checkpoint folder: its kind, its base model, and the recipe and log of its training run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from transformers.utils import cached_file

from sayo.errors import SayoError
from sayo.training.checkpoints import (
    UNFINISHED,
    CheckpointError,
    check_digests,
    is_complete,
    read_marker,
)
from sayo.training.start import FILE as START
from sayo.training.start import weights_digest

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
        start: what the run was started with (`sayo.training.start`), or empty.
        recipe: the run's resolved recipe (of `start`, or `recipe.yaml`), or empty.
        trainer_state: the trainer's `trainer_state.json`, or empty.
    """

    folder: Path
    kind: str
    base: str | None
    revision: str
    run: Path
    start: dict[str, Any]
    recipe: dict[str, Any]
    trainer_state: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path, base_model: str | None = None) -> "Checkpoint":
        """Inspect `folder` without loading weights. `base_model` overrides the base that the checkpoint names.

        Raises:
            ExportError: the folder is not a checkpoint, its save was cut, a file was damaged since, or its weights are
                pickled.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ExportError(f"{folder} is not a folder. Pass a checkpoint, e.g. runs/toy/checkpoint-40.")
        if (folder / UNFINISHED).is_file():
            raise ExportError(f"{folder} is torn: the run ended while it was written. Export the one before it.")
        kind = _kind(folder)
        # The final model is in the run's folder itself, every other checkpoint one level below.
        run = next((path for path in (folder, folder.absolute().parent) if (path / RECIPE).is_file()), folder)
        _check_files(folder, kind)
        start = _values(folder / START)
        recipe = start.get("recipe") or _values(run / RECIPE)
        adapter = _values(folder / ADAPTER_CONFIG) if kind == "adapter" else {}
        model = recipe.get("model") or {}
        own = adapter.get("revision") or (model.get("load") or {}).get("revision")
        return cls(
            folder=folder,
            kind=kind,
            base=base_model or adapter.get("base_model_name_or_path") or model.get("name_or_path"),
            revision=(None if base_model else own) or "main",
            run=run,
            start=start,
            recipe=recipe,
            trainer_state=_values(folder / "trainer_state.json"),
        )

    def check_base(self) -> None:
        """ExportError where `base` does not hold the weights that training started from, as far as both are known."""
        digest = self.start.get("base_model")
        if digest and self.base and weights_digest(self.base, self.revision) not in (None, digest):
            raise ExportError(
                f"{self.base} does not hold the weights that training started from ({display_name(self.base)} was "
                "changed, or is another model). Pass the folder or hub id of the right ones with --base-model."
            )


def _check_files(folder: Path, kind: str) -> None:
    """Compare what is read with what was saved: not the optimizer, except where it holds the weights (shards)."""
    if is_complete(folder):
        try:
            marker = read_marker(folder)
            read = [name for name in marker["files"] if kind in ("zero", "fsdp") or not name.endswith((".pt", ".pth"))]
            check_digests(folder, marker, read)
        except CheckpointError as error:
            raise ExportError(str(error)) from None


def _values(file: Path) -> dict[str, Any]:
    """Of a YAML or JSON file; empty where there is none, an ExportError where it cannot be read."""
    load = json.loads if file.suffix == ".json" else yaml.safe_load
    try:
        return load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, yaml.YAMLError) as error:
        raise ExportError(f"{file} cannot be read: {error}. Bring it back, or export another checkpoint.") from None


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
