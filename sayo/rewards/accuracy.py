"""Is the answer right?"""

from collections.abc import Callable
from typing import Any

from sayo.answers.compare import answer_matches
from sayo.answers.extract import accepted_answers, completion_text, extract_answer


def accuracy_reward(
    completions: list,
    solution: list,
    answers: list | None = None,
    whole_text: bool = False,
    log_extra: Callable[[str, list], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    r"""1.0 for a right answer, 0.0 for a wrong or missing one, None without a reference answer.

    The answer is the last `<answer>...</answer>`, else the last `\boxed{...}` (`answers.extract.extract_answer`), and
    is compared by `answers.compare.answer_matches`.

    Args:
        completions: B completions (messages or strings).
        solution: B reference answers (numbers are accepted; surrounding answer tags or `\boxed` are removed).
        answers: B lists of further accepted answers, or None.
        whole_text: a response without tags or box is itself the answer.
        log_extra: TRL's hook; receives the column `extracted_answer` for the completions table.
    """
    answers = answers if answers is not None else [None] * len(completions)
    given = [extract_answer(completion_text(completion), whole_text) for completion in completions]
    if log_extra is not None:
        log_extra("extracted_answer", given)
    scores: list[float | None] = []
    for answer, references in zip(given, map(accepted_answers, solution, answers), strict=True):
        right = answer is not None and answer_matches(answer, references)
        scores.append(float(right) if references else None)
    return scores
