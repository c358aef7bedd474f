"""Multiple choice: the options of a question, and which of them a text names."""

import re

from sayo.answers.extract import PATTERNS
from sayo.answers.words import clean, normalize

_OPTION = re.compile(r"(?:(?<=[\s,;:])|^)\(?([A-Z])[).:]\s*(?=\S)")
_CHOICE = re.compile(r"\(?([A-Za-z])(?:(?:\)[.:]?\s*|[.:](?:\s+|$))(?P<text>\S.*)?)?$", re.DOTALL)
_LEAD, _PHRASE = (re.compile(PATTERNS[name], re.VERBOSE | re.IGNORECASE) for name in ("lead", "phrase"))
_BEFORE, _AFTER, _SEVERAL, _LABEL, _ANALYSIS = (
    re.compile(PATTERNS[name], re.IGNORECASE)
    for name in ("negated_before", "negated_after", "alternatives", "label", "analysis")
)
_LONE = re.compile(r"^\(?([A-Z])\)?\W*$")
_LATEX = re.compile(r"\\[()\[\]]|\$|\\(?:text|textbf|mathrm|mathbf|mbox|boxed)\s*(?=\{)|(?<!\\)[{}]")


def split_options(question: str) -> tuple[str, dict[str, str]]:
    """A question without the options that it lists ("A. cat", "(B) dog"), and letter -> text of those, from A on."""
    marks = list(_OPTION.finditer(question))
    first = max((at for at, mark in enumerate(marks) if mark[1] == "A"), default=len(marks))
    kept: list[re.Match[str]] = []
    for mark in marks[first:]:
        if mark[1] == chr(ord("A") + len(kept)):
            kept.append(mark)
    if len(kept) < 2:
        return question, {}
    ends = [*(mark.start() for mark in kept[1:]), len(question)]
    texts = [question[mark.end() : end].split("\n")[0].strip(" ,;\t") for mark, end in zip(kept, ends, strict=True)]
    return question[: kept[0].start()], {mark[1]: clean(text) for mark, text in zip(kept, texts, strict=True)}


def choice_of(gold: str, options: dict[str, str]) -> tuple[str, str] | None:
    """Letter and text ("" if unknown) of a reference answer; None if it is no choice."""
    choice = _CHOICE.match(gold)
    if choice is not None and (not options or choice[1].upper() in options):
        letter = choice[1].upper()
        return letter, choice["text"] or options.get(letter, "")
    return next(((letter, text) for letter, text in options.items() if normalize(text) == normalize(gold)), None)


def contradicts(text: str, words: str) -> bool:
    """Whether a label is followed by other words than those of its option: "B. dog" where B is a cat."""
    choice = _CHOICE.match(text)
    if choice is None or not choice["text"] or not words:
        return False
    said, words = normalize(choice["text"]), normalize(words)
    return words not in said and len(said.split()) <= len(words.split()) + 2


def letters_named(text: str, options: dict[str, str]) -> set[str]:
    """The letters that a text gives as its answer: one if it is clear, several if it is not, none if it names none."""
    text = clean(_LATEX.sub("", clean(text)))
    lines = [_LONE.match(line) for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[-1] and not lines[-2]:
        return {lines[-1][1]}
    several = {letter for pair in _SEVERAL.finditer(text) for letter in pair.groups()}
    if len(several) > 1:
        return several
    labels = {label[1] for label in _LABEL.finditer(text.rstrip(". "))}
    lead = _LEAD.match(text)
    if lead and not _is_negated(text, lead.span(1)):
        rest, letter = text[lead.end() :], lead[1].upper()
        others = {other for other, words in options.items() if words and normalize(words) == normalize(rest)}
        return {letter} | labels | set(_LONE.findall(rest)) | others
    if len(labels) > 1 or _ANALYSIS.search(text):
        return labels | {""}
    found = set()
    for phrase in _PHRASE.finditer(text):
        group = next(group for group in range(1, 6) if phrase[group])
        if not _is_negated(text, phrase.span(group)):
            found.add(phrase[group].upper())
    return found


def _is_negated(text: str, span: tuple[int, int]) -> bool:
    return bool(_BEFORE.search(text[: span[0]].rstrip("( ")) or _AFTER.match(text[span[1] :].lstrip(")")))
