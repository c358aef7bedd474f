r"""The text of a completion and its markup: `<answer>`, `\boxed{}`, and Look-Back's `<think>` and `<back>`."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_LOOK_BACK_TAG = re.compile(r"<(/?)(think|back)>")
_LOOK_BACK = ["<think>", "</think>", "<back>", "</back>", "<think>", "</think>"]


class TaggedAnswer(NamedTuple):
    """The `<answer>...</answer>` tags of a text."""

    content: str | None  # of the last complete pair; None if there is none
    start: int  # character position of that pair
    tags: int  # number of opening and closing tags in total; 2 for a well-formed answer


def completion_text(completion: Any) -> str:
    """Text of a TRL completion: a string, or the last assistant message of a conversation.

    A message's content may be a string, a list of content blocks (`{"type": "text", "text": ...}`) or None.
    """
    if isinstance(completion, str):
        return completion
    for message in reversed(completion or []):
        if message.get("role", "assistant") == "assistant":
            content = message.get("content")
            blocks = content if isinstance(content, list) else [{"text": content}]
            return "".join(str(block.get("text") or "") for block in blocks if isinstance(block, Mapping))
    return ""


def tagged_answer(text: str) -> TaggedAnswer:
    """Find the last complete `<answer>...</answer>` pair (linear in the length of the text)."""
    tags = list(_TAG.finditer(text))
    pairs = _pairs(tags)
    if not pairs:
        return TaggedAnswer(None, -1, len(tags))
    opened, closed = pairs[-1]
    return TaggedAnswer(text[opened.end() : closed.start()], opened.start(), len(tags))


def _pairs(tags: Iterable[re.Match[str]]) -> list[tuple[re.Match[str], re.Match[str]]]:
    """Match each closing tag (group 1 is a slash) with the last opening tag before it, if still open."""
    pairs, opened = [], None
    for tag in tags:
        if tag[1] and opened is not None:
            pairs.append((opened, tag))
        opened = None if tag[1] else tag
    return pairs


def boxed_answer(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` with balanced braces; None if there is none or it never closes."""
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
    r"""The stripped answer of a response: the last `<answer>...</answer>`, else the last `\boxed{...}`, else None.

    With `whole_text`, instead of None the whole text (for prompts that ask for the bare answer).
    """
    tagged = tagged_answer(text).content
    boxed = boxed_answer(text if tagged is None else tagged)
    answer = tagged if boxed is None else boxed
    if answer is None:
        return text.strip() if whole_text else None
    return answer.strip()


def accepted_answers(solution: Any, answers: Any = None) -> list[str]:
    """The non-empty reference answers of one sample as text, without tags; may be empty."""
    accepted = []
    for reference in (*_listed(solution), *_listed(answers)):
        if reference is None or (isinstance(reference, float) and math.isnan(reference)):  # NaN: missing in a table
            continue
        text = extract_answer(str(reference), whole_text=True)
        if text and text not in accepted:
            accepted.append(text)
    return accepted


def _listed(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


class LookBackFormat(NamedTuple):
    r"""How well a response follows Look-Back's format.

    `strict`: exactly think, back and think, all non-empty, with only white space around and between them, followed by
    a non-empty `\boxed{}`.
    """

    strict: bool
    lenient: bool  # at least one complete, non-empty back span, and a non-empty `\boxed{}`
    spans: list[tuple[int, int]]  # half-open character spans of the contents of complete back tags


def parse_look_back(text: str) -> LookBackFormat:
    """Parse the tags of a response (linear in its length). Truncated spans do not count."""
    tags = list(_LOOK_BACK_TAG.finditer(text))
    spans = [(opened.end(), closed.start()) for opened, closed in _pairs(tag for tag in tags if tag[2] == "back")]
    boxed = bool((boxed_answer(text) or "").strip())
    lenient = boxed and any(text[start:end].strip() for start, end in spans)
    strict = lenient and [tag[0] for tag in tags] == _LOOK_BACK and _well_spaced(text, tags)
    return LookBackFormat(strict, lenient, spans)


def _well_spaced(text: str, tags: list[re.Match[str]]) -> bool:
    outside = [text[: tags[0].start()]] + [text[tags[i].end() : tags[i + 1].start()] for i in (1, 3)]
    inside = [text[tags[i].end() : tags[i + 1].start()] for i in (0, 2, 4)]
    answered = (boxed_answer(text[tags[-1].end() :]) or "").strip()
    return not any(part.strip() for part in outside) and all(part.strip() for part in inside) and bool(answered)
