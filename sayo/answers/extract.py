r"""The text of a completion and where its answer stands: `<answer>`, `\boxed{}`, "The answer is ...", and Look-Back's
`<think>` and `<back>`."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PATTERNS = yaml.safe_load(Path(__file__).with_name("patterns.yaml").read_text(encoding="utf-8"))

_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_STATED = re.compile(PATTERNS["stated"], re.VERBOSE | re.IGNORECASE | re.MULTILINE)
_CONCLUSION, _TAIL = (re.compile(PATTERNS[name], re.IGNORECASE) for name in ("conclusion", "tail"))
_NEXT_BOX = re.compile(r"\}(?:[\s$,.]|\\[()\[\]]|\\q?quad|and\b|or\b|\\text\s*\{\s*(?:and|or)\s*\})*\\boxed\{")
_MARKED_END = re.compile(r"(?:</answer>|\})[\s.$\]]*$", re.IGNORECASE)
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
    return _last_text(completion, "assistant")


def question_text(prompt: Any) -> str:
    """Text of a TRL prompt's last user turn, or the prompt itself if it is a string."""
    return _last_text(prompt, "user")


def _last_text(messages: Any, role: str) -> str:
    if isinstance(messages, str):
        return messages
    for message in reversed(messages or []):
        if message.get("role", role) == role:
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
    """The first of `answer_readings`, None where there is none."""
    return next(iter(answer_readings(text, whole_text)), None)


def answer_readings(text: str, whole_text: bool = False) -> list[str]:
    r"""What a response gives as its answer, the likeliest reading first; empty if it gives none.

    Only what follows the reasoning counts (`</think>`). If it has a complete `<answer>...</answer>`: the last
    `\boxed{...}` in the last one, then all of it. Else the last box and the last statement ("Answer: B", "the final
    answer is ..."), the later one first. Boxes side by side are one. With `whole_text`, where there is none of these:
    the sentence with which it concludes ("Therefore, ..."), then the whole text (for prompts that ask for the bare
    answer).
    """
    text = _NEXT_BOX.sub(", ", _TAIL.sub("", _after_reasoning(text)))
    tagged = tagged_answer(text).content
    if tagged is not None:
        boxed = boxed_answer(tagged)
        return [tagged.strip()] if boxed is None else [boxed.strip(), tagged.strip()]
    found = [(text.rfind("\\boxed{"), boxed_answer(text))]
    *_, said = [None, *_STATED.finditer(text)]
    if said:
        found.append((said.start("said"), said["said"]))
    readings = [reading.strip() for _, reading in sorted(found, key=lambda item: -item[0]) if reading is not None]
    if text.count("\\boxed{") and found[0][1] is None:  # cut off in its box
        return []
    if whole_text and not readings:
        *_, conclusion = [None, *_CONCLUSION.finditer(text)]
        readings = [conclusion["said"], text.strip()] if conclusion and conclusion.start() else [text.strip()]
    return readings


def _after_reasoning(text: str) -> str:
    """The text behind `</think>`; reasoning that never ends counts only if an answer's markup ends the text."""
    before, closed, after = text.rpartition("</think>")
    text = after if after.strip() or not closed else before
    if "<think>" in text and not _MARKED_END.search(text):
        return "" if closed == "" or after.strip() else text
    return text


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
