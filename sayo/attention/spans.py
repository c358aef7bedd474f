"""Which tokens of a prompt are a turn's words: the system prompt, the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

TURNS = {"system": "system", "question": "user"}


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

    Args:
        processor: with `apply_chat_template`, as it made `inputs`.
        conversations: one list of messages per row, images inside their content.
        inputs: `input_ids` and `attention_mask`, `(B, S)`.
        turns: name of the group -> role.
        template_options: of `apply_chat_template`; a generation prompt is added unless it says otherwise.

    Returns:
        `{name: (B, S) float32}`; all zero for a sample without such a turn.

    Raises:
        ValueError: `inputs` were not made from these conversations with these options.
    """
    options = {"add_generation_prompt": True, **template_options}
    ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
    groups = {name: torch.zeros(ids.shape, device=ids.device) for name in turns}
    for row, messages in enumerate(conversations):
        rendered = _render(processor, messages, options)
        first = int(attention_mask[row].argmax())
        if ids[row, first : first + len(rendered)].tolist() != rendered:
            raise ValueError(
                f"Sample {row}: the chat template gives other tokens than its input_ids; pass the conversations and "
                "the template options that the inputs were made with."
            )
        for name, role in turns.items():
            emptied = _without_words(messages, role)
            if emptied is not None:
                start, stop = _difference(rendered, _render(processor, emptied, options))
                groups[name][row, first + start : first + stop] = 1.0
    image_token_id = getattr(processor, "image_token_id", None)
    if image_token_id is not None:
        groups = {name: group * (ids != image_token_id) for name, group in groups.items()}
    return groups


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
