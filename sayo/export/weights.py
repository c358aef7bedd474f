"""Checkpoint files -> the model that was trained, in memory on the CPU. Every missing or extra weight is an error."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

from sayo.export.checkpoint import ADAPTER_WEIGHTS, FSDP_SHARDS, WEIGHTS, Checkpoint, ExportError, stored_names


@contextmanager
def _readable(what: object) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise ExportError(f"cannot load {what}: {error}") from error


def load_full(model: str | Path, revision: str | None = None) -> PreTrainedModel:
    """A model folder or hub id, loaded strictly, in the dtype of its files.

    Raises:
        ExportError: files that cannot be read, or weights that do not fit the config.
    """
    with _readable(model):
        loaded, info = AutoModelForImageTextToText.from_pretrained(
            model,
            dtype="auto",
            revision=revision or "main",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that `check_names` can name them
        )
    check_names(model, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    return loaded


def load_shards(checkpoint: Checkpoint) -> PreTrainedModel:
    """DeepSpeed or sharded FSDP states gathered into a model of the config's dtype.

    DeepSpeed's shards, and the index of FSDP's, are pickles and are unpickled here: only export checkpoints that you
    wrote yourself.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    source = checkpoint.folder if (checkpoint.folder / "config.json").is_file() else checkpoint.base
    if source is None:
        raise ExportError(f"{checkpoint.folder} has no config.json: name the model it started from with --base-model.")
    with _readable(checkpoint.folder):
        config = AutoConfig.from_pretrained(source)
        gather = get_fp32_state_dict_from_zero_checkpoint if checkpoint.kind == "zero" else _gather_fsdp
        state = gather(checkpoint.folder)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    result = model.load_state_dict(state, strict=False)
    missing = set(result.missing_keys) - set(model.all_tied_weights_keys or {})
    check_names(checkpoint.folder, missing, result.unexpected_keys)
    model.tie_weights()
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(source)
    cast(model, config.dtype or torch.float32)
    return model


def _gather_fsdp(folder: Path) -> dict[str, Tensor]:
    from accelerate.utils import merge_fsdp_weights

    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".merge-") as merged:
        merge_fsdp_weights(str(folder / FSDP_SHARDS), merged, safe_serialization=True)
        return load_file(Path(merged) / WEIGHTS)


def cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give the floating-point weights another dtype, in place.

    Not `model.to(dtype)`, which would also round the rotary frequencies: `from_pretrained` keeps those in fp32, and
    so it does with the modules that a family names in `_keep_in_fp32_modules`.
    """
    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    stored = model.state_dict()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in stored and tensor.is_floating_point() and not kept & set(name.split(".")):
            tensor.data = tensor.data.to(dtype)


def load_base(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model that an adapter belongs to.

    Raises:
        ExportError: no base is known, or the base is quantized (an adapter cannot be merged into it exactly).
    """
    if checkpoint.base is None:
        raise ExportError(f"{checkpoint.folder}/adapter_config.json names no base model: name it with --base-model.")
    with _readable(f"{checkpoint.base} (another base is named with --base-model)"):
        config = AutoConfig.from_pretrained(checkpoint.base, revision=checkpoint.revision or "main")
    if getattr(config, "quantization_config", None) is not None:
        raise ExportError(
            f"{checkpoint.base} is quantized; an adapter is merged into full-precision weights. "
            "Name the unquantized model with --base-model, or load the checkpoint as it is with peft."
        )
    return load_full(checkpoint.base, checkpoint.revision)


def attach_adapter(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """`base` with the adapter of folder `adapter`; refuses an adapter that lacks or adds a tensor."""
    with _readable(f"the adapter {adapter} on its base model"):
        stored = stored_names(adapter / ADAPTER_WEIGHTS)
        model = PeftModel.from_pretrained(base, adapter, low_cpu_mem_usage=False)
    wanted = set(get_peft_model_state_dict(model))
    check_names(adapter, wanted - stored, stored - wanted)
    return model


def check_names(what: object, missing: Collection, unexpected: Collection, reshaped: Collection = ()) -> None:
    """Refuse a load of `what` in which a weight was missing, unexpected or of another shape.

    Raises:
        ExportError: names up to three weights of each kind.
    """
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(problems.values()):
        parts = "; ".join(f"{len(names)} {problem} ({first_names(names)})" for problem, names in problems.items())
        raise ExportError(f"the weights of {what} do not fit its config.json: {parts}.")


def first_names(names: Collection, limit: int = 3) -> str:
    """`"a, b, c, ..."`, or `"none"`."""
    ordered = sorted(map(str, names))
    return ", ".join(ordered[:limit]) + (", ..." if len(ordered) > limit else "") or "none"
