"""Checkpoint files -> the model that was trained, in memory on the CPU. Every missing or extra weight is an error."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sayo.export.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    FSDP_SHARDS,
    WEIGHTS,
    Checkpoint,
    ExportError,
    stored_names,
)
from sayo.export.verify import check_loading

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_full(model: str | Path, dtype: torch.dtype | str = "auto", revision: str | None = None) -> PreTrainedModel:
    """A model folder or hub id, loaded strictly.

    Raises:
        ExportError: files that cannot be read, or weights that do not fit the config.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    try:
        loaded, info = AutoModelForImageTextToText.from_pretrained(
            model,
            dtype=dtype,
            revision=revision or "main",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that `check_loading` can name them
        )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ExportError(f"cannot load {model}: {error}") from error
    check_loading(info, str(model))
    return loaded


def load_shards(checkpoint: Checkpoint) -> PreTrainedModel:
    """DeepSpeed or sharded FSDP states gathered into a model of the config's dtype.

    DeepSpeed's shards, and the index of FSDP's, are pickles and are unpickled here: only export checkpoints that you
    wrote yourself.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    source = checkpoint.folder if (checkpoint.folder / "config.json").is_file() else checkpoint.base
    if source is None:
        raise ExportError(f"{checkpoint.folder} has no config.json: name the model it started from with --base-model.")
    config = AutoConfig.from_pretrained(source)
    state = _gather_zero(checkpoint.folder) if checkpoint.kind == "zero" else _gather_fsdp(checkpoint.folder)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    result = model.load_state_dict(state, strict=False)
    tied = set(model.all_tied_weights_keys or {})
    missing = [name for name in result.missing_keys if name not in tied]
    check_loading({"missing_keys": missing, "unexpected_keys": result.unexpected_keys}, str(checkpoint.folder))
    model.tie_weights()
    model.generation_config = _generation_config(checkpoint) or model.generation_config
    cast(model, config.dtype or torch.float32)
    return model


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


def _gather_zero(folder: Path) -> dict[str, Any]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        return get_fp32_state_dict_from_zero_checkpoint(str(folder))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ExportError(f"cannot gather the DeepSpeed shards of {folder}: {error}") from error


def _gather_fsdp(folder: Path) -> dict[str, Any]:
    from accelerate.utils import merge_fsdp_weights
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".merge-") as merged:
        merge_fsdp_weights(str(folder / FSDP_SHARDS), merged, safe_serialization=True)
        return load_file(Path(merged) / WEIGHTS)


def _generation_config(checkpoint: Checkpoint) -> Any:
    from transformers import GenerationConfig

    for source in (checkpoint.folder, checkpoint.base):
        try:
            return GenerationConfig.from_pretrained(source) if source is not None else None
        except OSError:
            continue
    return None


def load_base(checkpoint: Checkpoint, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """The model that an adapter belongs to.

    Raises:
        ExportError: no base is known, or the base is quantized (an adapter cannot be merged into it exactly).
    """
    from transformers import AutoConfig

    if checkpoint.base is None:
        raise ExportError(f"{checkpoint.folder}/{ADAPTER_CONFIG} names no base model: name it with --base-model.")
    try:
        config = AutoConfig.from_pretrained(checkpoint.base, revision=checkpoint.revision or "main")
    except (OSError, ValueError) as error:
        raise ExportError(
            f"cannot load the base model {checkpoint.base!r}: {error} Name it with --base-model."
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise ExportError(
            f"{checkpoint.base} is quantized; an adapter is merged into full-precision weights. "
            "Name the unquantized model with --base-model, or keep the adapter with --adapter-only."
        )
    return load_full(checkpoint.base, dtype, checkpoint.revision)


def attach_adapter(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """`base` with the adapter of folder `adapter`; refuses an adapter that lacks or adds a tensor."""
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from safetensors import SafetensorError

    try:
        stored = stored_names(adapter / ADAPTER_WEIGHTS)
        model = PeftModel.from_pretrained(base, adapter, low_cpu_mem_usage=False)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ExportError(f"cannot put the adapter of {adapter} on its base model: {error}") from error
    wanted = set(get_peft_model_state_dict(model))
    check_loading({"missing_keys": wanted - stored, "unexpected_keys": stored - wanted}, f"the adapter {adapter}")
    return model
