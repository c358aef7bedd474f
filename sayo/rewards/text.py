"""The text of a completion, and the answer that it gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)


class TaggedAnswer(NamedTuple):
    """What `<answer>...</answer>` tags a text holds.

    Attributes:
        content: inside of the last complete pair, None without one.
        start: where that pair starts in the text.
        tags: number of opening and closing tags together; 2 for a well-formed answer.
    """

    content: str | None
    start: int
    tags: int


def completion_text(completion: Any) -> str:
    """Text of a completion as TRL hands it over: a string, or messages whose last assistant turn counts.

    A message's content may be a string, a list of content blocks (`{"type": "text", "text": ...}`) or None.
    """
    if isinstance(completion, str):
        return completion
    for message in reversed(completion or []):
        if message.get("role", "assistant") == "assistant":
            return _content_text(message.get("content"))
    return ""


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(str(block.get("text") or "") for block in blocks if isinstance(block, Mapping))


def tagged_answer(text: str) -> TaggedAnswer:
    """Find the last complete `<answer>...</answer>` pair (linear in the length of the text)."""
    content, start, tags, opened = None, -1, 0, None
    for tag in _TAG.finditer(text):
        tags += 1
        if not tag.group(1):
            opened = tag
        elif opened is not None:
            content, start, opened = text[opened.end() : tag.start()], opened.start(), None
    return TaggedAnswer(content, start, tags)


def boxed_answer(text: str) -> str | None:
    r"""Inside of the last `\boxed{...}` with balanced braces, or None (also when that last one never closes)."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return None


def extract_answer(text: str, whole_text: bool = False) -> str | None:
    r"""The answer of a response: the last `<answer>...</answer>`, else the last `\boxed{...}`.

    Args:
        text: the response.
        whole_text: without either, take the whole text (for prompts that ask for the bare answer) instead of None.

    Returns:
        The stripped answer (`""` for an empty tag), or None when the response gives none.
    """
    answer = tagged_answer(text).content
    if answer is None:
        answer = boxed_answer(text)
        if answer is None:
            return text.strip() if whole_text else None
        return answer.strip()
    inner = boxed_answer(answer)
    return (answer if inner is None else inner).strip()
