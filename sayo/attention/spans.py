"""Which tokens of a prompt are a turn's words: the system prompt, the question."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

TURNS = {"system": "system", "question": "user"}


class WordsNotFound(ValueError):
    """The tokens were not made from these conversations with these options."""


def turn_groups(
    processor: Any,
    conversations: Sequence[Sequence[Mapping]],
    inputs: Mapping[str, torch.Tensor],
    turns: Mapping[str, str] = TURNS,
    **template_options: Any,
) -> dict[str, torch.Tensor]:
    """Key groups of the words of the last turn of each role, for any processor with a chat template.

    A turn's words are what disappears from the tokens when its text is emptied and the template is rendered again:
    the longest common prefix and suffix of the two renderings stay, whatever markers, image tokens and default
    prompts the template adds. Visual tokens between two texts of one turn are left out. Where a template merges words
    with a marker into one token, that token counts to the words.

    Where the processor only repeats the image token (Qwen, GLM, LLaVA), texts are rendered without their pictures, a
    millisecond for each different prompt; elsewhere the processor prepares every prompt anew.

    Args:
        processor: with `apply_chat_template`, as it made `inputs`.
        conversations: one list of messages per row, images inside their content.
        inputs: `input_ids` and `attention_mask`, `(B, S)`; a row's tokens may continue after the prompt.
        turns: name of the group -> role.
        template_options: of `apply_chat_template`; a generation prompt is added unless it says otherwise.

    Returns:
        `{name: (B, S) float32}`; all zero for a sample without such a turn.

    Raises:
        WordsNotFound: `inputs` were not made from these conversations with these options.
    """
    options = {"add_generation_prompt": True, **template_options}
    image_token_id = getattr(processor, "image_token_id", None)
    ids, attention_mask = inputs["input_ids"], inputs["attention_mask"].bool()
    groups = {name: torch.zeros(ids.shape, device=ids.device) for name in turns}
    known: dict[tuple, dict[str, tuple[int, int]]] = {}  # completions of one prompt share its spans
    for row, messages in enumerate(conversations):
        first = int(attention_mask[row].int().argmax())
        row_ids = ids[row, first:][attention_mask[row, first:]].tolist()
        key = (_text(processor, messages, options), *row_ids)
        if key not in known:
            spans = _spans_of_text(processor, messages, row_ids, turns, image_token_id, options)
            known[key] = (
                _spans_of_inputs(processor, messages, row_ids, turns, options, row) if spans is None else spans
            )
        for name, (start, stop) in known[key].items():
            groups[name][row, first + start : first + stop] = 1.0
    if image_token_id is not None:
        groups = {name: group * (ids != image_token_id) for name, group in groups.items()}
    return groups


def _spans_of_text(processor, messages, row_ids: list[int], turns, image_token_id, options) -> dict | None:
    """Half-open spans in `row_ids`, found in the rendered text; None where more differs than repetitions."""
    rendered = _text_tokens(processor, messages, options)
    short = [token for token, _ in _collapsed(rendered, image_token_id)]
    places = _collapsed(row_ids, image_token_id)
    if [token for token, _ in places[: len(short)]] != short:
        return None
    starts = [start for _, start in places] + [len(row_ids)]
    spans = {}
    for name, role in turns.items():
        emptied = _without_words(messages, role)
        if emptied is not None:
            other = [token for token, _ in _collapsed(_text_tokens(processor, emptied, options), image_token_id)]
            start, stop = _difference(short, other)
            spans[name] = (starts[start], starts[stop])
    return spans


def _spans_of_inputs(processor, messages, row_ids: list[int], turns, options, row: int) -> dict:
    """Half-open spans in `row_ids`, found in the tokens that the processor makes of words and images."""
    rendered = _render(processor, messages, options)
    if row_ids[: len(rendered)] != rendered:
        raise WordsNotFound(
            f"Sample {row}: the chat template gives other tokens than its input_ids; pass the conversations and the "
            "template options that the inputs were made with."
        )
    emptied = {name: _without_words(messages, role) for name, role in turns.items()}
    return {
        name: _difference(rendered, _render(processor, other, options))
        for name, other in emptied.items()
        if other is not None
    }


def _collapsed(ids: list[int], repeated: int | None) -> list[tuple[int, int]]:
    """(token, position) without the repetitions of one token."""
    return [(t, i) for i, t in enumerate(ids) if t != repeated or i == 0 or ids[i - 1] != repeated]


def _text(processor: Any, messages: Sequence[Mapping], options: dict) -> str:
    return processor.apply_chat_template([messages], tokenize=False, **options)[0]


def _text_tokens(processor: Any, messages: Sequence[Mapping], options: dict) -> list[int]:
    tokenizer = getattr(processor, "tokenizer", processor)
    return tokenizer(_text(processor, messages, options), add_special_tokens=False).input_ids


def _render(processor: Any, messages: Sequence[Mapping], options: dict) -> list[int]:
    output = processor.apply_chat_template([messages], tokenize=True, return_dict=True, **options)
    return torch.as_tensor(output["input_ids"][0]).tolist()


def _without_words(messages: Sequence[Mapping], role: str) -> list[Mapping] | None:
    """The conversation with the text of the last turn of `role` emptied, its images kept."""
    index = max((index for index, message in enumerate(messages) if message["role"] == role), default=None)
    if index is None:
        return None
    content = messages[index]["content"]
    if not isinstance(content, str):
        content = [{**part, "text": ""} if part["type"] == "text" else part for part in content]
    emptied = "" if isinstance(content, str) else content
    return [*messages[:index], {**messages[index], "content": emptied}, *messages[index + 1 :]]


def _difference(longer: list[int], shorter: list[int]) -> tuple[int, int]:
    start = 0
    while start < len(shorter) and longer[start] == shorter[start]:
        start += 1
    end = 0
    while end < len(shorter) - start and longer[-1 - end] == shorter[-1 - end]:
        end += 1
    return start, len(longer) - end
