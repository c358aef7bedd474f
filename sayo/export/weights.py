"""Loads checkpoint files into the trained model, on the CPU. A missing or unexpected weight is an error."""

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

from sayo.export.checkpoint import ADAPTER_WEIGHTS, FSDP_SHARDS, WEIGHTS, Checkpoint, ExportError


@contextmanager
def _readable(what: object) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise ExportError(f"cannot load {what}: {error}") from error


def load_full(model: str | Path, revision: str = "main") -> PreTrainedModel:
    """Load a folder or hub id in the dtype of its files; ExportError for what is unreadable or does not fit."""
    with _readable(model):  # mismatched sizes are ignored here so that `check_names` can list them
        loaded, info = AutoModelForImageTextToText.from_pretrained(
            model, dtype="auto", revision=revision, output_loading_info=True, ignore_mismatched_sizes=True
        )
    check_names(model, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    return loaded


def load_shards(checkpoint: Checkpoint) -> PreTrainedModel:
    """Gather DeepSpeed or FSDP shards into a model of the config's dtype.

    DeepSpeed shards and the FSDP index are pickles and are unpickled here: export only checkpoints that you wrote
    yourself.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    source = checkpoint.folder if (checkpoint.folder / "config.json").is_file() else checkpoint.base
    if source is None:
        raise ExportError(f"{checkpoint.folder} has no config.json: pass the base model with --base-model.")
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
    """Cast the floating-point weights in place, keeping in fp32 what `from_pretrained` keeps in fp32.

    These are the rotary frequencies and a family's `_keep_in_fp32_modules`; `model.to(dtype)` would round them.
    """
    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    stored = model.state_dict()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in stored and tensor.is_floating_point() and not kept & set(name.split(".")):
            tensor.data = tensor.data.to(dtype)


def load_base(checkpoint: Checkpoint) -> PreTrainedModel:
    """The base model of an adapter; ExportError if none is known or it is quantized (a merge would not be exact)."""
    if checkpoint.base is None:
        raise ExportError(f"{checkpoint.folder}/adapter_config.json names no base model: pass it with --base-model.")
    with _readable(f"{checkpoint.base} (pass another base with --base-model)"):
        config = AutoConfig.from_pretrained(checkpoint.base, revision=checkpoint.revision)
    if getattr(config, "quantization_config", None) is not None:
        raise ExportError(
            f"{checkpoint.base} is quantized; an adapter is merged into full-precision weights. "
            "Pass the unquantized model with --base-model, or load the checkpoint as it is with peft."
        )
    return load_full(checkpoint.base, checkpoint.revision)


def attach_adapter(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """Attach the adapter in folder `adapter` to `base`; refuses missing and unexpected tensors."""
    with _readable(f"the adapter {adapter} on its base model"):
        stored = load_file(adapter / ADAPTER_WEIGHTS).keys()
        model = PeftModel.from_pretrained(base, adapter, low_cpu_mem_usage=False)
    wanted = set(get_peft_model_state_dict(model))
    check_names(adapter, wanted - stored, stored - wanted)
    return model


def check_names(what: object, missing: Collection, unexpected: Collection, reshaped: Collection = ()) -> None:
    """Raise an ExportError that names up to three weights of each kind, unless there are none."""
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(problems.values()):
        parts = "; ".join(f"{len(names)} {problem} ({first_names(names)})" for problem, names in problems.items())
        raise ExportError(f"the weights of {what} do not fit its config.json: {parts}.")


def first_names(names: Collection, limit: int = 3) -> str:
    """`"a, b, c, ..."`, or `"none"`."""
    ordered = sorted(map(str, names))
    return ", ".join(ordered[:limit]) + (", ..." if len(ordered) > limit else "") or "none"
