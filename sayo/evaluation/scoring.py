"""Is a response right? One scorer per kind of answer, each from the response's text to an answer and a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sayo.answers.compare import answer_matches, normalize
from sayo.answers.extract import accepted_answers, extract_answer
from sayo.evaluation.extraction import choice_letter, numbers_of, only_number, readings, stated_answer, yes_or_no


class Grade(NamedTuple):
    """How a response was judged.

    Attributes:
        score: in [0, 1]; None where the row has no reference to compare with.
        answer: what the response answers; None where no answer was found, which scores 0 and is counted.
    """

    score: float | None
    answer: str | None


def grade(response: str, row: Mapping[str, Any], scorer: str) -> Grade:
    """Judge a response to a row.

    A row with `options` is judged by the chosen letter, whatever the scorer (mixed data sets hold both kinds).

    Args:
        row: `answers` (accepted ones; a letter where there are options), `options`, `precision`.
        scorer: one of `SCORERS`.
    """
    references = accepted_answers(row["solution"], row.get("answers"))
    if not references:
        return Grade(None, stated_answer(response))
    return (choice if row.get("options") else SCORERS[scorer])(response, row, references)


def reward(response: str, row: Mapping[str, Any], references: list[str]) -> Grade:
    r"""The training reward's own judgement: the last `<answer>` tag or `\boxed{}` counts, nothing else."""
    answer = extract_answer(response)
    return Grade(float(answer is not None and answer_matches(answer, references)), answer or None)


def choice(response: str, row: Mapping[str, Any], references: list[str]) -> Grade:
    """An option's letter. Without `options` in the row (they stand in the question) A to J are letters."""
    answer = choice_letter(response, row.get("options"))
    return Grade(float(answer is not None and answer in [one.upper() for one in references]), answer)


def yes_no(response: str, row: Mapping[str, Any], references: list[str]) -> Grade:
    """Yes or no; references may be written yes/no, true/false or 1/0."""
    answer = yes_or_no(response)
    return Grade(float(answer == yes_no_reference(references[0])), answer)


def yes_no_reference(reference: str) -> str:
    """ "yes" or "no"."""
    return "yes" if reference.strip().lower() in ("yes", "true", "1") else "no"


def math(response: str, row: Mapping[str, Any], references: list[str]) -> Grade:
    """The same value (math-verify behind `answers.mathematics`), words or choice.

    With `precision`, a number is rounded to so many decimals first, as MathVista does.
    """
    found = readings(response)
    if not found:
        return Grade(0.0, None)
    digits, gold = row.get("precision"), only_number(references[0])
    for answer in found:
        number = only_number(answer)
        if answer_matches(answer, references):
            return Grade(1.0, answer)
        if None not in (digits, gold, number) and round(number, int(digits)) == gold:
            return Grade(1.0, answer)
    return Grade(0.0, found[0])


def relaxed(response: str, row: Mapping[str, Any], references: list[str], tolerance: float = 0.05) -> Grade:
    """ChartQA's relaxed accuracy: a number within 5% of the reference; any other answer word by word."""
    found = readings(response)
    if not found:
        return Grade(0.0, None)
    gold = numbers_of(references[0])
    for answer in found:
        same = any(normalize(answer) == normalize(reference) for reference in references)
        if same or any(abs(a - g) <= tolerance * abs(g) + 1e-9 for g in gold for a in numbers_of(answer)):
            return Grade(1.0, answer)
    return Grade(0.0, found[0])


def match(response: str, row: Mapping[str, Any], references: list[str]) -> Grade:
    """The same words as an accepted answer (case, articles, punctuation and number words apart)."""
    answer = stated_answer(response)
    return Grade(float(answer is not None and answer_matches(answer, references)), answer)


def vqa(response: str, row: Mapping[str, Any], references: list[str]) -> Grade:
    """VQA accuracy: the mean over all ways to leave one annotator out of `min(others who agree / 3, 1)`.

    The annotators are the row's `answers` as they stand, repetitions included. With fewer than four of them,
    agreement with any one is enough.
    """
    answer = stated_answer(response)
    annotators = [normalize(str(one)) for one in row["answers"]]
    if answer is None:
        return Grade(0.0, None)
    agree, others = annotators.count(normalize(answer)), len(annotators) - 1
    if others < 3:
        return Grade(float(agree > 0), answer)
    left_out = agree * min((agree - 1) / 3, 1.0) + (others + 1 - agree) * min(agree / 3, 1.0)
    return Grade(left_out / (others + 1), answer)


SCORERS = {
    "reward": reward,
    "choice": choice,
    "yes_no": yes_no,
    "math": math,
    "relaxed": relaxed,
    "match": match,
    "vqa": vqa,
}
