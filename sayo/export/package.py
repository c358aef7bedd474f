"""`export_checkpoint`: writes a folder that transformers' Auto classes load, verified against its source.

The folder is written beside its destination and renamed once everything has been verified, so a killed or refused
export leaves no incomplete model at the destination.
"""

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
        dtype: of the written weights.
        merge_difference: largest fp32 logit difference caused by merging the adapter; None without a merge.
        logit_difference: largest logit difference between the reloaded folder and the source, including rounding to
            `dtype`. 0.0 if nothing was merged or cast.
        notes: warnings for the user (processor taken from the base, names that could not be compared, ...).
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
        checkpoint: full weights, a LoRA adapter (merged into its base in fp32, then cast back to the base's dtype),
            or DeepSpeed or FSDP shards.
        base_model: folder or hub id of the base, if the checkpoint does not name one or it has moved.
        dtype: dtype to write, such as `"bfloat16"`; `"auto"` keeps the base's (adapter) or the checkpoint's.
        overwrite: replace a folder that is not empty once the new one has been verified.
        repository: hub id for the model card's quick start, which otherwise names the folder.

    Raises:
        ExportError: a torn or damaged checkpoint, another base, missing or unexpected weights, tensor names that
            differ from the base's, values that are not finite, logits that differ from the source's, or an unsuitable
            `out`. Nothing is written or removed then.
    """
    out = Path(out).absolute()
    source = Checkpoint.open(checkpoint, base_model)
    source.check_base()
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
    """Upload `folder` to the hub model `owner/name` (created if missing) with the stored login; returns its URL.

    ExportError if the hub refuses, or the repository's name is not valid.
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
    """Refuse an `out` that would destroy the checkpoint, its base or other files."""
    folder = source.folder.resolve()
    if out.resolve() in (folder, *folder.parents, source.base and Path(source.base).resolve()):
        raise ExportError(f"{out} holds the checkpoint or its base model itself; choose another folder.")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not overwrite):
        raise ExportError(f"{out} exists. Choose another folder, or replace the folder with --overwrite.")


@contextmanager
def _finished_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is renamed to it on success and removed on failure."""
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
    """Make files readable for others, as the umask allows; safetensors restricts them to their owner."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)


def _load_processor(source: Checkpoint, result: ExportResult) -> ProcessorMixin:
    """The checkpoint's processor with its pixel limits, or the base model's if the checkpoint has none."""
    reasons = []
    for folder, revision in ((source.folder, "main"), (source.base, source.revision)):
        if folder is None:
            continue
        try:
            processor = AutoProcessor.from_pretrained(folder, revision=revision)
        except (OSError, ValueError, ImportError) as error:
            reasons.append(f"{folder}: {error}")
            continue
        if hasattr(processor, "image_processor"):  # AutoProcessor may fall back to a bare tokenizer
            if folder is not source.folder:
                result.notes.append(f"the checkpoint has no processor; that of {display_name(folder)} was taken")
            return processor
    reason = " | ".join(reasons) or "no image processor"
    raise ExportError(f"no usable processor ({reason}). Pass the base model with --base-model.")


def _write_model(
    source: Checkpoint, processor: ProcessorMixin, partial: Path, dtype: str, result: ExportResult
) -> None:
    if source.kind == "adapter":
        model = load_base(source)
        target = model.dtype  # the base's; merging itself is done in fp32
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
    result.logit_difference = float((reference - reloaded).abs().max())


def _save(model: PreTrainedModel, partial: Path, source: Checkpoint, result: ExportResult) -> None:
    """Save under the base model's tensor names.

    Under ZeRO-3, transformers 5.23 may save names such as `model.model.*` (it keeps an unfiltered mapping), which
    saving again would repeat. So the family's own names are tried first, then the loaded ones.
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
            "If training started from another model, pass that one with --base-model."
        )
    result.num_tensors = len(names)
    if base_names is None:
        result.notes.append("tensor names were not compared: the base model is not on this machine")


def _align(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Add the tokenizer's end of turn to the generation config, and turn the KV cache on again."""
    tokenizer, generation, text = processor.tokenizer, model.generation_config, model.config.get_text_config()
    old = generation.eos_token_id
    ends = [tokenizer.eos_token_id, *(old if isinstance(old, list) else [old])]
    generation.eos_token_id = [end for end in dict.fromkeys(ends) if end is not None and end < text.vocab_size] or None
    if tokenizer.pad_token_id is not None:
        generation.pad_token_id = tokenizer.pad_token_id
    if generation.bos_token_id is not None and generation.bos_token_id >= text.vocab_size:
        generation.bos_token_id = None
    generation.use_cache = text.use_cache = True
