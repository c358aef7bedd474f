r"""What a synthesised completion must and must not say.

Every check raises `RejectError` with the reason under which the row is counted, and the place that was found. The
filters of AVAR's and Look-Back's data (arXiv 2603.03825, 2507.03019) were not released; these are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from data_prep.examples import RejectError
from sayo.answers.compare import answer_matches
from sayo.answers.extract import boxed_answer, parse_look_back

_PICTURE = (
    r"(?:image|picture|photo(?:graph)?|figure|diagram|drawing|sketch|illustration|chart|graph|plot|map|scene|"
    r"screenshot|painting|poster|geometry)s?\b"
)
_TEXTUAL = (
    r"(?:my|our|reasoning|steps?|questions?|problem|text|calculations?|equations?|work|answers?|options?|statements?|"
    r"computations?|wording|assumptions?)\b"
)
_WORD = r"[^\W_][\w'-]*"
_NEAR = rf"(?:[\s,]+(?!\b{_TEXTUAL}){_WORD}){{0,6}}?[\s,]+"
_ANCHORS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:look|glanc|peer|turn|go|com|return|refer)(?:e|s|es|ing|ed)?(?:\s+{_WORD}){{0,2}}?\s+back\s+"
        rf"(?:at|to|over|into|in|on)\b(?!(?:\s+{_WORD}){{0,2}}?\s+{_TEXTUAL})",
        rf"\b(?:re-?)?(?:check|look|examin|inspect|verif|stud|consult|visit|zoom|focus)"
        rf"(?:e|s|es|ing|ed|y|ies|ied|ying)?(?:\s+{_WORD})?{_NEAR}{_PICTURE}",
    )
]
_LEAKS = {
    "text": re.compile(
        r"\b(?:the|this|that|my|your|a|given|provided|above|image|detailed|textual|written)\s+(?:description|caption)s?\b"
        r"|\bas\s+(?:described|captioned)\b|\b(?:given|provided|above)\s+(?:text|passage)\b",
        re.IGNORECASE,
    ),
    "blind": re.compile(
        r"\b(?:can(?:no|')t|cannot|can not|unable to|not able to)\s+(?:\w+\s+)?(?:see|view|look at|access)\s+"
        rf"(?:the|this|any|an)\s+(?:\w+\s+)?{_PICTURE}|\bas an ai\b|\bvisual anchors?\b|\bthese instructions\b",
        re.IGNORECASE,
    ),
}
_GIVEN_ANSWER = re.compile(
    r"\b(?:given|provided|reference|known|expected|gold(?:en)?|ground[- ]truth|target|supplied)\s+"
    r"(?:correct\s+|right\s+|final\s+)?(?:answer|solution|result)\b"
    r"|\b(?:right|correct)\s+answer\s+(?:is|was|has been)\s+(?:given|provided|known|supplied|stated)\b"
    r"|\b(?:since|because|as|knowing|given)\s+(?:that\s+)?(?:we\s+(?:know|are told)\s+(?:that\s+)?)?"
    r"the\s+(?:right|correct)\s+answer\b|\banswer\s+key\b|\bground[- ]truth\b",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"<\|[^<>|\n]{1,60}\|>|<(?:image|img|video|audio|pad|s|/s|bos|eos|unk)>", re.IGNORECASE)
_TAG = re.compile(r"</?(?:think|back|answer|reasoning|response|description|scan|elements|links)>", re.IGNORECASE)
_NO_ITEMS = frozenset(
    "about after again all and any are between both can could does for from has have how image into its many more "
    "most much must not out picture question than that the their them then there these they this those was were what "
    "when where which while who whose why will with would you your answer value number find calculate following "
    "figure diagram photo shown given same".split()
)
_SEEN = re.compile(
    r"\b(?:(?:colou?r|shape|line|arrow|label|axis|axes|bar|legend|curve|point|dot|angle|vertex|vertices|"
    r"edge|side|corner|circle|triangle|square|rectangle|polygon|ellipse|cube|sphere|cylinder|segment|grid|cell|row|column|"
    r"object|person|man|woman|people|face|hand|sign|background|foreground|left|right|top|bottom|upper|lower)s?\b|"
    r"(?:red|blue|green|yellow|orange|purple|pink|brown|black|white|gr[ae]y|cyan|magenta)\b)",
    re.IGNORECASE,
)


def section(text: str, tag: str, step: str) -> str:
    """Inside of the last complete `<tag>...</tag>`; text around it (a preface, a model's own thoughts) is dropped.

    Raises:
        RejectError: `tags` when there is none or it is empty.
    """
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    inside = text[start + len(tag) + 2 : end].strip() if 0 <= start < end else ""
    if not inside:
        raise RejectError("tags", f"{step}: no <{tag}>...</{tag}> with text in it: {_excerpt(text, 0, 120)}")
    return inside


def check_plain(text: str, step: str) -> None:
    """No tags, no special tokens, nothing that is no Unicode.

    Raises:
        RejectError: `tags`, `special_tokens` or `not_unicode`.
    """
    if tag := _TAG.search(text):
        raise RejectError("tags", f"{step}: a stray {tag[0]}: {_excerpt(text, *tag.span())}")
    check_text(text, step)


def check_text(text: str, step: str) -> None:
    """Text that a tokenizer takes for text: `<|image_pad|>` in a completion would be an image that is not there.

    Raises:
        RejectError: `special_tokens` or `not_unicode`.
    """
    if found := _SPECIAL.search(text):
        raise RejectError("special_tokens", f"{step}: {found[0]} in {_excerpt(text, *found.span())}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectError("not_unicode", f"{step}: {error}") from None


def check_answer(answer: str | None, accepted: list[str], step: str) -> None:
    """The answer is one of the accepted ones (`sayo.answers.compare.answer_matches`).

    Raises:
        RejectError: `wrong_answer`.
    """
    if answer is None or not answer_matches(answer, accepted):
        raise RejectError("wrong_answer", f"{step}: {str(answer)[:200]!r} is none of {accepted!r}")


def check_leaks(text: str, question: str, step: str, patterns: Iterable[str] = ("text", "blind")) -> None:
    """Nothing says that the writer had a description instead of the image, or had instructions.

    Words of the question are free: a question about a caption may be answered by speaking of the caption.

    Raises:
        RejectError: `leak`.
    """
    asked = question.lower()
    for name in patterns:
        for found in _LEAKS[name].finditer(text):
            if found[0].split()[-1].lower().rstrip("s") not in asked:
                raise RejectError("leak", f"{step}: {found[0]!r} in {_excerpt(text, *found.span())}")


def check_given_answer(text: str, step: str) -> None:
    """Nothing says that the answer was known beforehand.

    Raises:
        RejectError: `leak`.
    """
    if found := _GIVEN_ANSWER.search(text):
        raise RejectError("leak", f"{step}: {found[0]!r} in {_excerpt(text, *found.span())}")


def anchors(text: str) -> list[int]:
    """Characters at which visual anchors start ("look back at the triangle", "check the image again"), ascending.

    Going back to the question, the text or one's own steps is none.
    """
    starts = sorted((found.start(), found.end()) for pattern in _ANCHORS for found in pattern.finditer(text))
    kept, end = [], -1
    for start, stop in starts:
        if start >= end:
            kept.append(start)
        end = max(end, stop)
    return kept


def check_anchors(text: str, step: str) -> int:
    """At least one visual anchor after the first third of the reasoning, where attention has begun to fade.

    Returns:
        the number of anchors.

    Raises:
        RejectError: `no_anchor` or `anchor_too_early`.
    """
    found = anchors(text)
    if not found:
        raise RejectError("no_anchor", f"{step}: no visual anchor in {len(text.split())} words")
    if found[-1] < len(text) / 3:
        where = _excerpt(text, found[-1], found[-1] + 30)
        raise RejectError("anchor_too_early", f"{step}: the last anchor stands in the first third: {where}")
    return len(found)


def check_look_back(
    text: str, accepted: list[str], question: str, labels: list[str], step: str, min_words: int = 10
) -> None:
    r"""Look-Back's format, the right answer in `\boxed{}`, and a check that names something to be seen.

    Things to be seen are the row's labels, the nouns of its question, and words for marks, shapes, colours and places.

    Args:
        labels: names of the objects in the row's regions.
        min_words: in the check, as in `sayo.rewards.look_back_reward`.

    Raises:
        RejectError: `tags`, `wrong_answer`, `back_too_short` or `back_names_nothing_visible`.
    """
    found = parse_look_back(text)
    if not found.strict:
        raise RejectError(
            "tags", f"{step}: not think, back, think and a boxed answer, once each: {_excerpt(text, 0, 120)}"
        )
    check_answer(boxed_answer(text), accepted, step)
    back = text[slice(*found.spans[0])]
    if len(back.split()) < min_words:
        raise RejectError("back_too_short", f"{step}: {len(back.split())} words: {_excerpt(back, 0, 80)}")
    words = {word for word in re.findall(r"\w{3,}", question.casefold()) if word not in _NO_ITEMS}
    names = {*words, *map(str.casefold, labels)}
    if not _SEEN.search(back) and not any(re.search(rf"\b{re.escape(name)}", back.casefold()) for name in names):
        raise RejectError("back_names_nothing_visible", f"{step}: {_excerpt(back, 0, 160)}")


def _excerpt(text: str, start: int, end: int) -> str:
    return repr(text[max(0, start - 40) : end + 40])
