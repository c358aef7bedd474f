"""Sample completions and read their attention: the two passes of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.groups import completion_traces, key_groups, prefix_weights, vision_token_ids


def processor_inputs(processor: Any, rows: Sequence[Mapping], device: torch.device | str) -> dict[str, torch.Tensor]:
    """Prompts of prepared rows as left-padded model inputs, images placed as TRL places them."""
    from trl import prepare_multimodal_messages

    conversations = [prepare_multimodal_messages(row["prompt"], images=row.get("images") or []) for row in rows]
    inputs = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    return inputs.to(device)


@torch.no_grad()
def sample_completions(
    model: nn.Module, processor: Any, inputs: Mapping[str, torch.Tensor], max_new_tokens: int, temperature: float
) -> torch.Tensor:
    """`(B, C)` sampled completion ids, padded after the end of each; greedy where the temperature is 0."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    sequences = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        suppress_tokens=vision_token_ids(model.config),
        pad_token_id=processor.tokenizer.pad_token_id,
        **(sampling or {"do_sample": False}),
    )
    return sequences[:, inputs["input_ids"].shape[1] :]


def completion_mask(completion_ids: torch.Tensor, eos_token_ids: int | Sequence[int]) -> torch.Tensor:
    """`(B, C)` int64: 1 up to and including the first end-of-sequence token."""
    ends = torch.isin(completion_ids, torch.as_tensor(eos_token_ids, device=completion_ids.device))
    return (ends.cumsum(dim=1) - ends.long() == 0).long()


def read_attention(
    model: nn.Module,
    capture: AttentionCapture,
    inputs: Mapping[str, torch.Tensor],
    completion_ids: torch.Tensor,
    mask: torch.Tensor,
    rows: Sequence[Mapping],
    temperature: float = 1.0,
) -> list[AttentionTrace]:
    """`read_captures` of one capture: traces with maps, one per row."""
    return read_captures(model, [capture], inputs, completion_ids, mask, rows, temperature)[0]


@torch.no_grad()
def read_captures(
    model: nn.Module,
    captures: Sequence[AttentionCapture],
    inputs: Mapping[str, torch.Tensor],
    completion_ids: torch.Tensor,
    mask: torch.Tensor,
    rows: Sequence[Mapping],
    temperature: float = 1.0,
) -> list[list[AttentionTrace]]:
    """One teacher-forced pass over prompt + completion, read by several captures of different layers.

    Beside the trainer's groups the traces hold `"prefix"` (see `prefix_weights`) and `"response"`; the first
    capture's have maps.

    Args:
        captures: a layer is in one of them only.
        inputs: model inputs of the prompts.
        completion_ids, mask: `(B, C)`.
        rows: the prepared rows, for their regions.
        temperature: of the sampling, for the entropies; 0 counts as 1.

    Returns:
        per capture, one trace per row.
    """
    length = completion_ids.shape[1]
    input_ids = torch.cat([inputs["input_ids"], completion_ids], dim=1)
    model_inputs = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in model_inputs:  # the completion is text
            model_inputs[name] = torch.nn.functional.pad(model_inputs[name], (0, length))
    attention_mask = torch.cat([inputs["attention_mask"], mask], dim=1)
    groups, image_index = key_groups(input_ids, length, rows, model.config.image_token_id)
    groups["prefix"] = prefix_weights(groups["image"], attention_mask)
    groups["response"] = torch.nn.functional.pad(mask.float(), (input_ids.shape[1] - length, 0))
    first_row = input_ids.shape[1] - length - 1
    with ExitStack() as stack:
        readings = [
            stack.enter_context(capture.reading(slice(first_row, None), groups, image_index if number == 0 else None))
            for number, capture in enumerate(captures)
        ]
        logits = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            logits_to_keep=length + 1,
            use_cache=False,
            **model_inputs,
        ).logits
    log_probs = torch.log_softmax(logits[:, :-1].float() / (temperature or 1.0), dim=-1)
    entropies = -(log_probs.exp() * log_probs).sum(dim=-1)
    return [completion_traces(reading, groups, entropies, mask) for reading in readings]
