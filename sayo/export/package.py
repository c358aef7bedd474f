"""`export_checkpoint`: a folder that the Auto classes of transformers load, proven equal to its source.

The folder is written beside its destination and renamed when everything has been checked, so a killed or refused
export leaves no half-written model under the name that was asked for.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sayo.export import verify
from sayo.export.card import write_card
from sayo.export.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Checkpoint,
    ExportError,
    display_name,
    stored_names,
    tensor_names,
)
from sayo.export.folder import check_destination, finished_folder, share
from sayo.export.weights import attach_adapter, cast, load_base, load_full, load_shards

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ExportResult:
    """What was written and how it compares with its source.

    Attributes:
        out: the finished folder.
        kind: kind of the checkpoint (`full`, `adapter`, `zero`, `fsdp`).
        merged: False when the adapter was kept as an adapter.
        dtype: dtype of the written weights.
        num_tensors: number of tensors written.
        merge_difference: largest logit difference, in fp32, that merging the adapter made; None without a merge.
        logit_difference: largest logit difference between the reloaded folder and the source, rounding to `dtype`
            included. 0.0 when nothing was merged or cast.
        notes: what the user should know (a processor taken from the base, names that could not be compared, ...).
    """

    out: Path
    kind: str
    merged: bool
    dtype: str
    num_tensors: int
    merge_difference: float | None
    logit_difference: float
    notes: tuple[str, ...]


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    base_model: str | None = None,
    merge: bool = True,
    dtype: Dtype = "auto",
    overwrite: bool = False,
    repository: str | None = None,
) -> ExportResult:
    """Write `checkpoint` to the folder `out`: safetensors, config, processor, generation config and model card.

    Args:
        checkpoint: a checkpoint of full fine-tuning, of LoRA (merged into its base in fp32 and cast back to the
            base's dtype), or of DeepSpeed or FSDP shards.
        base_model: folder or hub id of the base; needed where the checkpoint does not name one that can be found.
        merge: False keeps an adapter as an adapter.
        dtype: dtype to write; `"auto"` is the base's (adapter) or the checkpoint's own.
        overwrite: replace a folder that is not empty, once the new one has been checked.
        repository: hub id that the model card's quick start names; without one it names the folder.

    Raises:
        ExportError: missing or extra weights, tensor names other than the base's, values that are not finite, logits
            that differ from the source's, or an `out` that must not be written. Nothing is written or removed then.
    """
    import sayo.processors  # noqa: F401  # makes the toy processor known to AutoProcessor

    out = Path(out).absolute()
    source = Checkpoint.open(checkpoint, base_model)
    if not merge and source.kind != "adapter":
        raise ExportError(f"{checkpoint} is not an adapter: there is nothing to keep apart. Leave --adapter-only out.")
    check_destination(out, source, overwrite)
    notes: list[str] = []
    processor = load_processor(source, notes)
    with finished_folder(out) as partial:
        if source.kind == "adapter" and not merge:
            result = _write_adapter(source, processor, partial, out, notes)
        else:
            result = _write_model(source, processor, partial, out, dtype, notes)
        _check_processor(processor, partial)
        write_card(partial, source, result, repository)
        share(partial)
    return result


def load_processor(source: Checkpoint, notes: list[str]) -> ProcessorMixin:
    """The checkpoint's processor, with its pixel limits, or the base model's where the checkpoint has none."""
    from transformers import AutoProcessor

    reasons = []
    for folder, revision in ((source.folder, None), (source.base, source.revision)):
        if folder is None:
            continue
        try:
            processor = AutoProcessor.from_pretrained(folder, revision=revision or "main")
        except (OSError, ValueError, ImportError) as error:
            reasons.append(f"{folder}: {error}")
            continue
        if getattr(processor, "image_processor", None) is None:  # AutoProcessor may settle for a bare tokenizer
            reasons.append(f"{folder}: no image processor")
            continue
        if folder is not source.folder:
            notes.append(f"the checkpoint has no processor; the base model's was taken ({display_name(str(folder))})")
        return processor
    detail = " | ".join(reasons) or "no base model is known"
    raise ExportError(f"found no processor ({detail}). Name the model it started from with --base-model.")


def _write_model(
    source: Checkpoint, processor: ProcessorMixin, partial: Path, out: Path, dtype: Dtype, notes: list[str]
) -> ExportResult:
    import torch

    inputs, merge_difference = None, None
    if source.kind == "adapter":
        base = load_base(source)
        target = base.dtype  # the base's own; merging itself is done in fp32
        model = attach_adapter(base.to(torch.float32), source.folder)
        inputs = verify.probe_inputs(processor, base.config)
        reference = verify.logits(model, inputs)
        model = model.merge_and_unload(safe_merge=True)
        merge_difference = verify.check_merge(reference, verify.logits(model, inputs))
    else:
        model = load_full(source.folder) if source.kind == "full" else load_shards(source)
        target = model.dtype
        verify.check_finite(model)
        inputs = verify.probe_inputs(processor, model.config)
        reference = verify.logits(model, inputs)
    target = target if dtype == "auto" else getattr(torch, dtype)
    cast(model, target)
    verify.check_finite(model)  # again: float16 overflows
    expected = verify.logits(model, inputs)
    _align(model, processor)
    names = _save(model, partial, source, notes)
    processor.save_pretrained(partial)
    reloaded = verify.check_reload(model, load_full(partial), expected, inputs)
    difference = verify.largest_difference(reference, reloaded)
    return ExportResult(
        out,
        source.kind,
        True,
        str(target).removeprefix("torch."),
        len(names),
        merge_difference,
        difference,
        tuple(notes),
    )


def _write_adapter(
    source: Checkpoint, processor: ProcessorMixin, partial: Path, out: Path, notes: list[str]
) -> ExportResult:
    """The adapter as it is, with its processor; reloaded on its base and compared exactly."""
    model = attach_adapter(load_base(source), source.folder)
    inputs = verify.probe_inputs(processor, model.config)
    reference = verify.logits(model, inputs)
    dtype = str(model.dtype).removeprefix("torch.")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copyfile(source.folder / name, partial / name)
    processor.save_pretrained(partial)
    verify.check_reload(model, attach_adapter(load_base(source), partial), reference, inputs)
    count = len(stored_names(partial / ADAPTER_WEIGHTS))
    return ExportResult(out, source.kind, False, dtype, count, None, 0.0, tuple(notes))


def _save(model: PreTrainedModel, partial: Path, source: Checkpoint, notes: list[str]) -> set[str]:
    """Save under the base model's tensor names; returns them.

    A checkpoint written under ZeRO-3 may carry names such as `model.model.*` (transformers 5.23 keeps an unfiltered
    mapping), which saving would repeat. So the family's own names are tried first, then the loaded ones; the base
    decides.
    """
    base_names = tensor_names(source.base, source.revision) if source.base is not None else None
    loaded = getattr(model, "_weight_conversions", None)
    difference = None
    for conversions in (None, loaded):
        model._weight_conversions = conversions
        model.save_pretrained(partial)
        names = tensor_names(partial)
        difference = verify.name_differences(names, base_names, model) if base_names is not None else None
        if difference is None:
            break
    if difference is not None:
        raise ExportError(
            f"the tensor names differ from those of the base model {display_name(source.base)}: {difference}. "
            "If that is not the model it was trained from, name the right one with --base-model."
        )
    if base_names is None:
        notes.append("tensor names were not compared: the base model's files are not on this machine")
    return names


def _align(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Let generation end where the tokenizer's turns end, and undo what training switched off."""
    tokenizer, generation = processor.tokenizer, model.generation_config
    vocabulary = model.config.get_text_config().vocab_size
    old = generation.eos_token_id
    ends = [tokenizer.eos_token_id, *(old if isinstance(old, list) else [old])]
    ends = [end for end in dict.fromkeys(ends) if end is not None and end < vocabulary]
    if ends:
        generation.eos_token_id = ends if len(ends) > 1 else ends[0]
    if tokenizer.pad_token_id is not None:
        generation.pad_token_id = tokenizer.pad_token_id
    if generation.bos_token_id is not None and generation.bos_token_id >= vocabulary:
        generation.bos_token_id = None
    generation.use_cache = True
    model.config.get_text_config().use_cache = True


def _check_processor(processor: ProcessorMixin, partial: Path) -> None:
    """The written processor must be the source's, pixel limits and chat template included."""
    from transformers import AutoProcessor

    written = AutoProcessor.from_pretrained(partial)
    for name in ("size", "patch_size", "merge_size", "min_pixels", "max_pixels", "image_mean", "image_std"):
        before, after = (_plain(getattr(p.image_processor, name, None)) for p in (processor, written))
        if before != after:
            raise ExportError(f"the processor's {name} changed from {before} to {after} when it was written.")
    if written.chat_template != processor.chat_template:
        raise ExportError("the chat template changed when the processor was written.")


def _plain(value: Any) -> Any:
    return {key: value[key] for key in value} if hasattr(value, "keys") else value
