"""Is the box where the object is?"""

from typing import Any

from sayo.answers.boxes import Coordinates, box_iou
from sayo.answers.extract import accepted_answers, completion_text, extract_answer


def iou_reward(
    completions: list,
    solution: list,
    image_sizes: list | None = None,
    coordinates: Coordinates = "pixels",
    threshold: float | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """Intersection over union of the answer's box and the solution's; None where the solution is no box.

    The answer is read as by `accuracy_reward` with `whole_text`; several boxes that differ earn 0.

    Args:
        completions: B completions (messages or strings).
        solution: B boxes `[x1, y1, x2, y2]` in pixels of the original picture.
        image_sizes: B lists of the pictures' `[width, height]`, of which the first counts; a column of prepared rows.
        coordinates: how completions count (the prompt must say so: `data.user_suffix=box-pixels` or `box-thousand`).
        threshold: 1 from this intersection over union on (0.5 is RefCOCO's measure), else 0; None for the graded one.

    Raises:
        ValueError: `coordinates` that need `image_sizes`, without them.
    """
    sizes = [of_row[0] if of_row else None for of_row in image_sizes or [None] * len(completions)]
    rewards: list[float | None] = []
    for completion, gold, size in zip(completions, solution, sizes, strict=True):
        answer = extract_answer(completion_text(completion), whole_text=True) or ""
        accepted = accepted_answers(gold if isinstance(gold, str) else str(gold))
        iou = box_iou(answer, accepted[0], coordinates, size) if accepted else None
        rewards.append(iou if iou is None or threshold is None else float(iou >= threshold))
    return rewards
