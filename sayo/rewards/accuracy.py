"""Is the answer right?"""

from collections.abc import Callable
from typing import Any

from sayo.answers.boxes import Coordinates, box_iou
from sayo.answers.compare import answer_matches
from sayo.answers.extract import accepted_answers, answer_readings, completion_text, question_text


def accuracy_reward(
    completions: list,
    solution: list,
    answers: list | None = None,
    whole_text: bool = False,
    prompts: list | None = None,
    image_sizes: list | None = None,
    coordinates: Coordinates = "pixels",
    log_extra: Callable[[str, list], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    r"""1.0 for a right answer, 0.0 for a wrong or missing one, None without a reference answer.

    The answer is the last `<answer>...</answer>`, else the last `\boxed{...}` or "The answer is ..."
    (`answers.extract.answer_readings`), and is compared by `answers.compare.answer_matches`.

    Args:
        completions: B completions (messages or strings).
        solution: B reference answers (numbers are accepted; surrounding answer tags or `\boxed` are removed).
        answers: B lists of further accepted answers, or None.
        whole_text: a response without any of these is itself the answer.
        prompts: B prompts (messages or strings): their options, and what an answer repeats of them. Where one asks for
            a box and the solution is one, right is an intersection over union of 0.5 or more.
        image_sizes, coordinates: of boxes, as of `iou_reward`.
        log_extra: TRL's hook; receives the column `extracted_answer` for the completions table.
    """
    answers = answers if answers is not None else [None] * len(completions)
    sizes = [of_row[0] if of_row else None for of_row in image_sizes or [None] * len(completions)]
    questions = map(question_text, prompts if prompts is not None else [""] * len(completions))
    given = [answer_readings(completion_text(completion), whole_text) for completion in completions]
    if log_extra is not None:
        log_extra("extracted_answer", [next(iter(readings), None) for readings in given])
    scores: list[float | None] = []
    references = map(accepted_answers, solution, answers)
    for readings, accepted, question, size in zip(given, references, questions, sizes, strict=True):
        iou = None
        if accepted and "box" in question.casefold():
            iou = box_iou(next(iter(readings), ""), accepted[0], coordinates, size)
        right = answer_matches(readings, accepted, question) if iou is None else iou >= 0.5
        scores.append(float(right) if accepted else None)
    return scores
