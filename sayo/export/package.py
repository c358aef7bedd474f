"""`export_checkpoint`: a folder that the Auto classes of transformers load, proven equal to its source.

The folder is written beside its destination and renamed when everything has been checked, so a killed or refused
export leaves no half-written model under the name that was asked for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

import sayo.processors  # noqa: F401  # makes the toy processors known to AutoProcessor
from sayo.export import verify
from sayo.export.card import write_card
from sayo.export.checkpoint import Checkpoint, ExportError, display_name, tensor_names
from sayo.export.weights import attach_adapter, cast, load_base, load_full, load_shards


@dataclass
class ExportResult:
    """What was written and how it compares with its source.

    Attributes:
        out: the finished folder.
        kind: kind of the checkpoint (`full`, `adapter`, `zero`, `fsdp`).
        dtype: dtype of the written weights.
        num_tensors: number of tensors written.
        merge_difference: largest logit difference, in fp32, that merging the adapter made; None without a merge.
        logit_difference: largest logit difference between the reloaded folder and the source, rounding to `dtype`
            included. 0.0 when nothing was merged or cast.
        notes: what the user should know (a processor taken from the base, names that could not be compared, ...).
    """

    out: Path
    kind: str
    dtype: str = ""
    num_tensors: int = 0
    merge_difference: float | None = None
    logit_difference: float = 0.0
    notes: list[str] = field(default_factory=list)


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    base_model: str | None = None,
    dtype: str = "auto",
    overwrite: bool = False,
    repository: str | None = None,
) -> ExportResult:
    """Write `checkpoint` to the folder `out`: safetensors, config, processor, generation config and model card.

    Args:
        checkpoint: a checkpoint of full fine-tuning, of LoRA (merged into its base in fp32 and cast back to the
            base's dtype), or of DeepSpeed or FSDP shards.
        base_model: folder or hub id of the base; needed where the checkpoint does not name one that can be found.
        dtype: dtype to write, such as `"bfloat16"`; `"auto"` is the base's (adapter) or the checkpoint's own.
        overwrite: replace a folder that is not empty, once the new one has been checked.
        repository: hub id that the model card's quick start names; without one it names the folder.

    Raises:
        ExportError: missing or extra weights, tensor names other than the base's, values that are not finite, logits
            that differ from the source's, or an `out` that must not be written. Nothing is written or removed then.
    """
    out = Path(out).absolute()
    source = Checkpoint.open(checkpoint, base_model)
    _check_destination(out, source, overwrite)
    result = ExportResult(out, source.kind)
    processor = _load_processor(source, result)
    with _finished_folder(out) as partial:
        _write_model(source, processor, partial, dtype, result)
        verify.check_processor(processor, partial)
        write_card(partial, source, processor, repository or out.name)
        _share(partial)
    return result


def push_folder(folder: Path, repository: str, private: bool = False) -> str:
    """Upload `folder` to the model repository `owner/name`, created if it does not exist; returns its address.

    Uses the login and the endpoint (`HF_ENDPOINT`) of `huggingface_hub`.

    Raises:
        ExportError: the hub refused, or the repository's name is not valid.
    """
    api = HfApi(library_name="sayo")
    try:
        repo_id = api.create_repo(repository, repo_type="model", private=private, exist_ok=True).repo_id
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Export by sayo")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ExportError(
            f"Not uploaded: {error} {folder} is complete; upload it with: hf upload {repository} {folder}"
        ) from error
    return f"{api.endpoint}/{repo_id}"


def _check_destination(out: Path, source: Checkpoint, overwrite: bool) -> None:
    """Refuse an `out` that would harm the checkpoint, its base or other files."""
    folder = source.folder.resolve()
    if out.resolve() == folder or out.resolve() in folder.parents:
        raise ExportError(f"{out} holds the checkpoint itself; choose another folder.")
    if source.base is not None and out.resolve() == Path(source.base).resolve():
        raise ExportError(f"{out} is the base model itself; choose another folder.")
    if out.is_file():
        raise ExportError(f"{out} is a file; choose another name.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise ExportError(f"{out} is not empty. Choose another folder, or replace it with --overwrite.")


@contextmanager
def _finished_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name on success and disappears on failure."""
    partial, old = (out.parent / f".{out.name}.{state}" for state in ("partial", "replaced"))
    shutil.rmtree(partial, ignore_errors=True)  # left by an export that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _share(folder: Path) -> None:
    """safetensors writes files that only their owner can read; a model is for sharing."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)


def _load_processor(source: Checkpoint, result: ExportResult) -> ProcessorMixin:
    """The checkpoint's processor, with its pixel limits, or the base model's where the checkpoint has none."""
    reasons = []
    for folder, revision in ((source.folder, None), (source.base, source.revision)):
        if folder is None:
            continue
        try:
            processor = AutoProcessor.from_pretrained(folder, revision=revision or "main")
        except (OSError, ValueError, ImportError) as error:
            reasons.append(f"{folder}: {error}")
            continue
        if hasattr(processor, "image_processor"):  # AutoProcessor may settle for a bare tokenizer
            if folder is not source.folder:
                result.notes.append(f"the checkpoint has no processor; that of {display_name(folder)} was taken")
            return processor
    reason = " | ".join(reasons) or "no image processor"
    raise ExportError(f"no usable processor ({reason}). Name the model it started from with --base-model.")


def _write_model(
    source: Checkpoint, processor: ProcessorMixin, partial: Path, dtype: str, result: ExportResult
) -> None:
    """Full weights with their processor; reloaded and compared with the source."""
    if source.kind == "adapter":
        model = load_base(source)
        target = model.dtype  # the base's own; merging itself is done in fp32
        model = attach_adapter(model.to(torch.float32), source.folder)
    else:
        model = load_full(source.folder) if source.kind == "full" else load_shards(source)
        target = model.dtype
    inputs = verify.probe_inputs(processor, model.config)
    reference = verify.logits(model, inputs)
    if source.kind == "adapter":
        model = model.merge_and_unload(safe_merge=True)
        result.merge_difference = verify.check_merge(reference, verify.logits(model, inputs))
    target = target if dtype == "auto" else getattr(torch, dtype)
    cast(model, target)
    expected = verify.logits(model, inputs)
    _align(model, processor)
    result.dtype = str(target).removeprefix("torch.")
    _save(model, partial, source, result)
    processor.save_pretrained(partial)
    reloaded = verify.check_reload(model, load_full(partial), expected, inputs)
    result.logit_difference = verify.largest_difference(reference, reloaded)


def _save(model: PreTrainedModel, partial: Path, source: Checkpoint, result: ExportResult) -> None:
    """Save under the base model's tensor names.

    A checkpoint written under ZeRO-3 may carry names such as `model.model.*` (transformers 5.23 keeps an unfiltered
    mapping), which saving would repeat. So the family's own names are tried first, then the loaded ones; the base
    decides.
    """
    base_names = tensor_names(source.base, source.revision) if source.base is not None else None
    for conversions in (None, getattr(model, "_weight_conversions", None)):
        model._weight_conversions = conversions
        model.save_pretrained(partial)
        names = tensor_names(partial)
        difference = verify.name_differences(names, base_names, model) if base_names is not None else None
        if difference is None:
            break
    else:
        raise ExportError(
            f"the tensor names differ from those of the base model {display_name(source.base)}: {difference}. "
            "If that is not the model it was trained from, name the right one with --base-model."
        )
    result.num_tensors = len(names)
    if base_names is None:
        result.notes.append("tensor names were not compared: the base model's files are not on this machine")


def _align(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Let generation end where the tokenizer's turns end, and undo what training switched off."""
    tokenizer, generation = processor.tokenizer, model.generation_config
    vocabulary = model.config.get_text_config().vocab_size
    old = generation.eos_token_id
    ends = [tokenizer.eos_token_id, *(old if isinstance(old, list) else [old])]
    generation.eos_token_id = [end for end in dict.fromkeys(ends) if end is not None and end < vocabulary] or None
    if tokenizer.pad_token_id is not None:
        generation.pad_token_id = tokenizer.pad_token_id
    if generation.bos_token_id is not None and generation.bos_token_id >= vocabulary:
        generation.bos_token_id = None
    generation.use_cache = True
    model.config.get_text_config().use_cache = True
