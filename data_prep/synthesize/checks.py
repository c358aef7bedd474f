r"""What a synthesised completion must and must not say.

Every check raises `RejectedError` with the reason under which the row is counted, and the place that was found. The
filters of AVAR's and Look-Back's data (arXiv 2603.03825, 2507.03019) were not released; these are ours, their regular
expressions in `patterns.yaml`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from string import Template

import yaml

from sayo.answers.compare import answer_matches
from sayo.answers.extract import boxed_answer, parse_look_back
from sayo.errors import RejectedError

_PATTERNS = yaml.safe_load((Path(__file__).parent / "patterns.yaml").read_text(encoding="utf-8"))


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(Template(text).substitute(_PATTERNS["parts"]), re.IGNORECASE | re.VERBOSE)


_ANCHOR, _SEEN = _pattern(_PATTERNS["anchor"]), _pattern(_PATTERNS["seen"])
_LEAKS = {kind: _pattern(text) for kind, text in _PATTERNS["leaks"].items()}
_NO_ITEMS = frozenset(_PATTERNS["no_items"].split())
_SPECIAL = re.compile(r"<\|[^<>|\n]{1,60}\|>|<(?:image|img|video|audio|pad|s|/s|bos|eos|unk)>", re.IGNORECASE)
_TAG = re.compile(r"</?(?:think|back|answer|reasoning|response|description|scan|elements|links)>", re.IGNORECASE)


def section(text: str, tag: str, step: str) -> str:
    """Inside of the last complete `<tag>...</tag>`, without a preface or a model's own thoughts; else `tags`."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    inside = text[start + len(tag) + 2 : end].strip() if 0 <= start < end else ""
    if not inside:
        raise RejectedError("tags", f"{step}: no <{tag}>...</{tag}> with text in it: {_excerpt(text, 0, 120)}")
    return inside


def check_text(text: str, step: str, tags: bool = False) -> None:
    """Text that a tokenizer takes for text: `<|image_pad|>` in a completion would be an image that is not there.

    Raises:
        RejectedError: `special_tokens`, `not_unicode`, or, unless `tags` are allowed, `tags`.
    """
    if not tags and (tag := _TAG.search(text)):
        raise RejectedError("tags", f"{step}: a stray {tag[0]}: {_excerpt(text, *tag.span())}")
    if token := _SPECIAL.search(text):
        raise RejectedError("special_tokens", f"{step}: {token[0]} in {_excerpt(text, *token.span())}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectedError("not_unicode", f"{step}: {error}") from None


def check_answer(answer: str | None, accepted: list[str], step: str) -> None:
    """The answer is one of the accepted ones (`sayo.answers.compare.answer_matches`), else it is a `wrong_answer`."""
    if answer is None or not answer_matches(answer, accepted):
        raise RejectedError("wrong_answer", f"{step}: {str(answer)[:200]!r} is none of {accepted!r}")


def check_leaks(text: str, question: str, step: str, kinds: Iterable[str]) -> None:
    """Nothing says that the writer had a description ("text"), no image ("blind") or the "answer": that is a `leak`.

    Words of the question are free: a question about a caption may be answered by speaking of the caption.
    """
    asked = question.lower()
    for kind in kinds:
        for leak in _LEAKS[kind].finditer(text):
            if kind == "answer" or leak[0].split()[-1].lower().rstrip("s") not in asked:
                raise RejectedError("leak", f"{step}: {leak[0]!r} in {_excerpt(text, *leak.span())}")


def anchors(text: str) -> list[int]:
    """Characters at which visual anchors start ("look back at the triangle", "check the image again"), ascending.

    Going back to the question, the text or one's own steps does not count.
    """
    return [anchor.start() for anchor in _ANCHOR.finditer(text)]


def check_anchors(text: str, step: str) -> None:
    """The last visual anchor comes after the first third of the reasoning, where attention has begun to fade."""
    starts = anchors(text)
    if not starts:
        raise RejectedError("no_anchor", f"{step}: no visual anchor in {len(text.split())} words")
    if starts[-1] < len(text) / 3:
        where = _excerpt(text, starts[-1], starts[-1] + 30)
        raise RejectedError("anchor_too_early", f"{step}: the last anchor is in the first third: {where}")


def check_look_back(
    text: str, accepted: list[str], question: str, labels: list[str], step: str, min_words: int = 10
) -> None:
    r"""Look-Back's format, the right answer in `\boxed{}`, and a check that names something to be seen.

    Things to be seen are the row's labels, the nouns of its question, and words for marks, shapes, colours and places.
    `min_words` are those of the check, as in `sayo.rewards.look_back_reward`.

    Raises:
        RejectedError: `tags`, `wrong_answer`, `back_too_short` or `back_names_nothing_visible`.
    """
    parsed = parse_look_back(text)
    if not parsed.strict:
        why = "not think, back, think and a boxed answer, once each"
        raise RejectedError("tags", f"{step}: {why}: {_excerpt(text, 0, 120)}")
    check_answer(boxed_answer(text), accepted, step)
    back = text[slice(*parsed.spans[0])]
    if len(back.split()) < min_words:
        raise RejectedError("back_too_short", f"{step}: {len(back.split())} words: {_excerpt(back, 0, 80)}")
    words = {word for word in re.findall(r"\w{3,}", question.casefold()) if word not in _NO_ITEMS}
    names = {*words, *map(str.casefold, labels)}
    if not _SEEN.search(back) and not any(re.search(rf"\b{re.escape(name)}", back.casefold()) for name in names):
        raise RejectedError("back_names_nothing_visible", f"{step}: {_excerpt(back, 0, 160)}")


def _excerpt(text: str, start: int, end: int) -> str:
    return repr(text[max(0, start - 40) : end + 40])
