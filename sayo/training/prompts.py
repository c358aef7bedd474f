"""Prompts of the completions table as text, which every tracker can show."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Any


def plain_prompts(prompts: MutableSequence[Any]) -> None:
    """Turn multimodal messages into messages of text, in place: `<image>` stands where a picture was.

    TRL hands the messages to the tracker with their content as a list of `{"type": "image"}` and `{"type": "text",
    "text": ...}`. A `wandb.Table` refuses a list of mappings with different keys, and the run dies at its first log.
    """
    for index, messages in enumerate(prompts):
        if isinstance(messages, list):
            prompts[index] = [{**message, "content": _text(message["content"])} for message in messages]


def _text(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return "".join(block["text"] if block["type"] == "text" else f"<{block['type']}>" for block in content)
