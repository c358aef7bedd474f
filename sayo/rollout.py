"""Responses of a vision-language model and where it looks while it gives them: the one reader of rollouts.

The steps, each usable alone (`rows` are prepared rows, or mappings with `prompt` and `images`):

    inputs = processor_inputs(processor, rows, model.device)
    completions = generate(model, processor, inputs, max_new_tokens=256, temperature=1.0)   # or `given_response`
    groups, image_index = rollout_groups(model, processor, inputs, completions, rows)
    readings, entropies = teacher_force(model, inputs, completions, captures, groups, image_index, temperature=1.0)

`read_traces` is the last two and `completion_traces`: one `AttentionTrace` per capture and row. Any number of captures
read the same pass; a layer may be in one of them only. A capture made with `maps=True` keeps the attention on every
visual token, one made with `per_head=True` keeps heads apart. For a single sample, `generate(..., keep_cache=True)`
spares the pass the prompt. `token_texts` and `token_offsets` turn ids into text.
"""

import codecs
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from trl import prepare_multimodal_messages

from sayo.attention import AttentionCapture, AttentionTrace, CapturedMasses
from sayo.attention.groups import completion_traces, key_groups, prefix_weights, vision_token_ids
from sayo.attention.spans import WordsNotFound, turn_groups

LOGIT_ROWS = 64
"""Rows of logits that become a float32 distribution at once."""


@dataclass(frozen=True)
class Completions:
    """What a model answered to a batch of `B` prompts.

    Attributes:
        ids: `(B, C)` int64, padded on the right.
        mask: `(B, C)` int64, 1 up to and including the first end-of-sequence token.
        cache: the keys and values of prompt and response that generating left, or None.
        chosen: `(B, C)` int64, 0 on tokens that others wrote (results of tools); None where the model chose all.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any = None
    chosen: torch.Tensor | None = None


def conversations(rows: Sequence[Mapping]) -> list[list[dict[str, Any]]]:
    """Prompts of rows as messages, the images placed as TRL places them."""
    return [prepare_multimodal_messages(row["prompt"], images=row.get("images") or []) for row in rows]


def processor_inputs(processor: Any, rows: Sequence[Mapping], device: torch.device | str) -> dict[str, torch.Tensor]:
    """Left-padded model inputs of the prompts of rows."""
    inputs = processor.apply_chat_template(
        conversations(rows),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    return inputs.to(device)


@torch.no_grad()
def generate(
    model: nn.Module,
    processor: Any,
    inputs: Mapping[str, torch.Tensor],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    keep_cache: bool = False,
) -> Completions:
    """One completion per prompt; greedy where the temperature is 0. Vision tokens are never sampled."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    output = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        suppress_tokens=vision_token_ids(model.config),
        pad_token_id=processor.tokenizer.pad_token_id,
        return_dict_in_generate=True,
        **(sampling or {"do_sample": False}),
    )
    ids = output.sequences[:, inputs["input_ids"].shape[1] :]
    mask = completion_mask(ids, model.generation_config.eos_token_id)
    return Completions(ids, mask, output.past_key_values if keep_cache else None)


def completion_mask(ids: torch.Tensor, eos_token_ids: int | Sequence[int] | None) -> torch.Tensor:
    """`(B, C)` int64: 1 up to and including the first end-of-sequence token."""
    ends = [] if eos_token_ids is None else eos_token_ids
    is_end = torch.isin(ids, torch.as_tensor(ends, dtype=ids.dtype, device=ids.device))
    return (is_end.cumsum(dim=1) - is_end.long() == 0).long()


def given_response(tokenizer: Any, text: str, device: torch.device | str) -> Completions:
    """A text as the completion of one prompt, `(1, T)`; "<|image_pad|>" in it does not become an image.

    Raises:
        ValueError: the text has no tokens.
    """
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_tensors="pt")
    ids = encoded["input_ids"].long().to(device)
    if ids.shape[1] == 0:
        raise ValueError("the given response has no tokens; leave it out to let the model answer")
    return Completions(ids, torch.ones_like(ids))


def rollout_groups(
    model: nn.Module,
    processor: Any,
    inputs: Mapping[str, torch.Tensor],
    completions: Completions,
    rows: Sequence[Mapping],
    **template_options: Any,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Key groups of prompts and completions, each `(B, S)` float32 with `S` = prompt + completion tokens.

    `template_options` are those of `apply_chat_template` that the prompts were made with.

    Returns:
        `"image"`, `"region"` (all 0 in a row without `region_tokens`), `"prefix"` (all before the first visual token),
        `"system"` and `"question"` (the words of those turns), `"response"` (what the model chose) and, where others
        wrote too, `"tool_image"` (visual tokens of their pictures); and `(B, N)` int64 positions of the prompt's
        visual tokens (see `key_groups`). Where a prompt is not what the chat template writes, `"question"` is
        the text after the last visual token and `"system"` is missing.
    """
    length = completions.ids.shape[1]
    input_ids = torch.cat([inputs["input_ids"], completions.ids], dim=1)
    attention_mask = torch.cat([inputs["attention_mask"], completions.mask], dim=1)
    groups, image_index = key_groups(input_ids, length, rows, model.config)
    groups["prefix"] = prefix_weights(groups["image"], attention_mask)
    try:
        if isinstance(rows[0]["prompt"], str):
            raise WordsNotFound("a prompt of plain text has no turns")
        # As TRL does: the template of a text-only model may know no blocks of content.
        has_images = hasattr(processor, "image_processor")
        messages = conversations(rows) if has_images else [row["prompt"] for row in rows]
        turns = turn_groups(processor, messages, inputs, **template_options)
    except WordsNotFound:
        image = groups["image"][:, : input_ids.shape[1] - length]
        is_after = image.flip(1).cumsum(dim=1).flip(1) == 0
        turns = {"question": (is_after & inputs["attention_mask"].bool()).float()}
    groups |= {name: nn.functional.pad(weights, (0, length)) for name, weights in turns.items()}
    parts = {"response": completions.mask}
    if completions.chosen is not None:
        given = completions.mask * (1 - completions.chosen)
        parts = {
            "response": completions.mask * completions.chosen,
            "tool_image": given * (completions.ids == model.config.image_token_id),
        }
    groups |= {name: nn.functional.pad(part.float(), (input_ids.shape[1] - length, 0)) for name, part in parts.items()}
    return groups, image_index


@torch.no_grad()
def teacher_force(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    completions: Completions,
    captures: Sequence[AttentionCapture],
    groups: Mapping[str, torch.Tensor],
    image_index: torch.Tensor,
    temperature: float = 1.0,
) -> tuple[list[CapturedMasses], torch.Tensor]:
    """Run prompts and completions once and read the attention of the rows `P - 1 .. P + C - 1`.

    Args:
        groups, image_index: of `rollout_groups`.
        temperature: of the sampling, for the entropies; 0 counts as 1.

    Returns:
        one reading per capture, and the `(B, C)` float32 entropies in nats of the distributions that chose the tokens.
    """
    length = completions.ids.shape[1]
    arguments, rows = _forward_arguments(inputs, completions)
    with ExitStack() as stack:
        readings = [
            stack.enter_context(capture.reading(rows, groups, image_index if capture.maps else None))
            for capture in captures
        ]
        logits = model(**arguments, logits_to_keep=length + 1).logits[:, -length - 1 : -1]
    entropies = []
    for block in logits.split(max(1, LOGIT_ROWS // len(logits)), dim=1):
        log_probs = torch.log_softmax(block.float() / (temperature or 1.0), dim=-1)
        entropies.append(-(log_probs.exp() * log_probs).sum(dim=-1))
    return readings, torch.cat(entropies, dim=1).clamp(min=0)


@torch.no_grad()
def completion_log_probs(
    model: nn.Module, inputs: Mapping[str, torch.Tensor], completions: Completions
) -> torch.Tensor:
    """`(B, C)` float32 log-probabilities of the completions' tokens, 0 behind their ends."""
    arguments, _ = _forward_arguments(inputs, completions)
    length = completions.ids.shape[1]
    logits = model(**arguments, logits_to_keep=length + 1).logits[:, -length - 1 : -1]
    chosen = torch.log_softmax(logits.float(), dim=-1).gather(-1, completions.ids[..., None])[..., 0]
    return chosen * completions.mask


def read_traces(
    model: nn.Module,
    processor: Any,
    inputs: Mapping[str, torch.Tensor],
    completions: Completions,
    rows: Sequence[Mapping],
    captures: Sequence[AttentionCapture],
    temperature: float = 1.0,
) -> list[list[AttentionTrace]]:
    """Per capture one trace per row, with the key groups of `rollout_groups` (see `teacher_force`)."""
    groups, image_index = rollout_groups(model, processor, inputs, completions, rows)
    readings, entropies = teacher_force(model, inputs, completions, captures, groups, image_index, temperature)
    return [completion_traces(reading, groups, entropies, completions.mask) for reading in readings]


def _forward_arguments(inputs: Mapping, completions: Completions) -> tuple[dict[str, Any], torch.Tensor]:
    """Arguments of the forward pass, and the positions of the rows to read (last prompt token, then the response).

    The cache of generation already holds the keys of the prompt: only the last prompt token and the response run
    again. Everything runs without a cache that can be cut: a batch, a given response, sliding windows, linear
    attention, prompts that attend in both directions.
    """
    ids, cache = completions.ids, completions.cache
    length, prompt_length = ids.shape[1], inputs["input_ids"].shape[1]
    rows = torch.arange(prompt_length - 1, prompt_length + length)
    can_cut = isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
    if len(ids) == 1 and can_cut and "token_type_ids" not in inputs:
        cache.crop(prompt_length - 1 - cache.get_seq_length())
        last = torch.cat([inputs["input_ids"][:, -1:], ids], dim=1)
        # No attention mask: nothing is padded, and Qwen's rotary positions follow from the length of the cache.
        return {"input_ids": last, "past_key_values": cache}, rows
    arguments = dict(inputs)
    arguments["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
    arguments["attention_mask"] = torch.cat([inputs["attention_mask"], completions.mask], dim=1)
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in arguments:  # the response is text
            arguments[name] = nn.functional.pad(arguments[name], (0, length))
    return {**arguments, "use_cache": False}, rows


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """One string per token; joined, they are the decoded text (special tokens included).

    A character whose bytes are spread over several tokens belongs to the last of them; the others are "". Bytes that
    are no character become U+FFFD. Where the decoder works on other units than bytes, what a token adds counts.
    """
    to_bytes = _byte_decoder(tokenizer)
    if to_bytes is None:
        prefixes = [tokenizer.decode(list(ids[:count])) for count in range(len(ids) + 1)]
        return [longer[len(shorter) :] for shorter, longer in pairwise(prefixes)]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = [decoder.decode(to_bytes(int(token_id))) for token_id in ids]
    texts[-1:] = [text + decoder.decode(b"", final=True) for text in texts[-1:]]
    return texts


def token_offsets(
    tokenizer: Any, ids: Sequence[int], skip_special_tokens: bool = False
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a response and the half-open character range of each of its ids, from the ids themselves.

    Tokenising the text again could cut it elsewhere. A skipped special token has an empty range.
    """
    special = set(tokenizer.all_special_ids) if skip_special_tokens else set()
    is_kept = [int(token_id) not in special for token_id in ids]
    kept = iter(token_texts(tokenizer, [token_id for token_id, keep in zip(ids, is_kept, strict=True) if keep]))
    texts = [next(kept) if keep else "" for keep in is_kept]
    return "".join(texts), list(pairwise(accumulate(map(len, texts), initial=0)))


def _byte_decoder(tokenizer: Any) -> Callable[[int], bytes] | None:
    """A function from a token id to the bytes that it adds to the text, or None for an unknown decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = b"" if backend is None or backend.decoder is None else backend.decoder.__getstate__()
    if b'"ByteLevel"' in decoder:
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        spell = lambda piece: bytes(byte_of[character] for character in piece)  # noqa: E731
    elif b'"ByteFallback"' in decoder:
        spell = _spell_sentencepiece
    else:
        return None
    added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
    return lambda token_id: (
        added[token_id].encode() if token_id in added else spell(tokenizer.convert_ids_to_tokens(token_id) or "")
    )


def _spell_sentencepiece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()
