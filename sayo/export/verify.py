"""Verifies that an export is the trained model: equal weights, and equal logits on a picture and a question."""

import re
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from sayo.export.checkpoint import ExportError
from sayo.export.weights import check_names, first_names

MERGE_TOLERANCE = 1e-4
"""Largest allowed fp32 logit difference between base + adapter and the merged model, relative to
`max(1, largest |logit|)`. Merging reorders sums, so it is not exact; a wrong merge is off by orders of magnitude."""

RELOAD_ROUNDINGS = 8
"""Logits of equal weights may differ by this many roundings of their dtype; on one machine they are usually equal."""


def probe_inputs(processor: ProcessorMixin, config: Any) -> dict[str, Tensor]:
    """Model inputs of one synthetic picture (96 x 72 pixels) and one question.

    ExportError if the processor has no chat template, or its prompt has no visual token.
    """
    across, down = np.meshgrid(np.linspace(0, 255, 96), np.linspace(0, 255, 72))
    pixels = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]}]
    try:
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except ValueError as error:
        raise ExportError(f"the processor cannot make a prompt, so the export cannot be verified: {error}") from error
    inputs = dict(processor(images=[Image.fromarray(pixels)], text=[prompt], return_tensors="pt"))
    if not (inputs["input_ids"] == config.image_token_id).any():
        raise ExportError(
            f"the processor's prompt has no visual token (id {config.image_token_id} in config.json): processor and "
            "model do not belong together. Pass the right base with --base-model."
        )
    return inputs


def logits(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """`(1, tokens, vocabulary)` float32 logits in evaluation mode.

    ExportError if a weight or a logit is not finite (one prompt does not use every row of an embedding).
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ExportError(f"{name} holds NaN or infinite values: the checkpoint is damaged. Export another one.")
    inputs = {key: value.to(model.dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad():
        result = model.eval()(**inputs, use_cache=False).logits.float()
    if not torch.isfinite(result).all():
        raise ExportError("the model's logits are not finite: the checkpoint is damaged. Export another one.")
    return result


def check_merge(source: Tensor, merged: Tensor) -> float:
    """Largest logit difference caused by merging; refuses more than `MERGE_TOLERANCE`."""
    difference, allowed = float((source - merged).abs().max()), MERGE_TOLERANCE * max(1.0, float(source.abs().max()))
    if difference > allowed:
        raise ExportError(
            f"merging changed the logits by {difference:.3g} (allowed {allowed:.3g}). "
            "Check that --base-model is the model that the adapter was trained on."
        )
    return difference


def check_reload(
    written: PreTrainedModel, reloaded: PreTrainedModel, expected: Tensor, inputs: dict[str, Tensor]
) -> Tensor:
    """Logits of the reloaded model; refuses weights that are not bit-equal to the written ones.

    Kernels may order sums by memory alignment, so logits may differ by a few roundings of the dtype.
    """
    before, after = written.state_dict(), reloaded.state_dict()
    check_names("the written model", before.keys() - after, after.keys() - before)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    result = logits(reloaded, inputs)
    difference = float((expected - result).abs().max())
    allowed = RELOAD_ROUNDINGS * torch.finfo(reloaded.dtype).eps * max(1.0, float(expected.abs().max()))
    if changed or difference > allowed:
        raise ExportError(
            f"the exported files differ from the model that was saved: {len(changed)} weights "
            f"({first_names(changed)}), logits by {difference:.3g}. Please report this as a bug."
        )
    return result


def name_differences(written: set[str], base: set[str], model: PreTrainedModel) -> str | None:
    """How the exported tensor names differ from the base model's, or None if they agree.

    A tied weight may be stored or left out, and a tensor that `transformers` does not load may be absent.
    """
    tied = set(model.all_tied_weights_keys or {})
    ignored = [re.compile(pattern) for pattern in (model._keys_to_ignore_on_load_unexpected or ())]
    extra = written - base - tied
    gone = {name for name in base - written - tied if not any(pattern.search(name) for pattern in ignored)}
    difference = f"{len(gone)} absent ({first_names(gone)}), {len(extra)} new ({first_names(extra)})"
    return difference if extra or gone else None


def check_processor(processor: ProcessorMixin, folder: object) -> None:
    """Refuse a processor in `folder` that differs from the source's, e.g. in pixel limits or chat template."""
    written = AutoProcessor.from_pretrained(folder)
    before, after = processor.image_processor.to_dict(), written.image_processor.to_dict()
    changed = [name for name in before if before[name] != after.get(name)]
    if changed or written.chat_template != processor.chat_template:
        raise ExportError(f"the processor changed when it was written: {', '.join(changed) or 'its chat template'}.")
