"""AVAR's training data: described by one model, reasoned by another, given visual anchors by a third.

Source: AVAR (arXiv 2603.03825), section on data; prompts and filters were not released, both are ours.
"""

from __future__ import annotations

from data_prep.examples import RejectError
from data_prep.synthesize import checks, prompts
from data_prep.synthesize.roles import Roles
from data_prep.synthesize.rows import Question
from data_prep.synthesize.sampling import first_good

ROLES = ("describe", "reason", "anchor")
_PARTS = ("scan", "elements", "links", "description")


class VisualAnchors:
    """Question -> `<think>reasoning with visual anchors</think>` and `<answer>answer</answer>`.

    Args:
        roles: the models of `ROLES`; only `describe` is shown the image.
        tries: samples of the reasoning, and of its rewriting, before a row is given up. The next sample is drawn when
            one fails a check; the row is then counted under the reason of the last one.
    """

    suffix = ""

    def __init__(self, roles: Roles, tries: int = 2):
        self.roles, self.tries = roles, tries

    def __call__(self, row: Question) -> str:
        """The completion.

        Raises:
            RejectError: why there is none.
        """
        if not row.accepted:
            raise RejectError("no_solution", "the row has no answer to compare with")
        shown = self.roles.ask("describe", row, prompts.describe(row.question), pictures=True)
        description = "\n\n".join(checks.section(shown, part, "describe") for part in _PARTS)
        reasoning, answer = first_good(self.tries, lambda sample: self._reason(row, description, sample))
        return first_good(self.tries, lambda sample: self._anchor(row, reasoning, answer, sample))

    def _reason(self, row: Question, description: str, sample: int) -> tuple[str, str]:
        text = self.roles.ask("reason", row, prompts.reason(row.question, description), sample=sample)
        return _reasoning_and_answer(text, row, f"reason/{sample}")

    def _anchor(self, row: Question, reasoning: str, answer: str, sample: int) -> str:
        step = f"anchor/{sample}"
        text = self.roles.ask("anchor", row, prompts.anchor(row.question, reasoning, answer), sample=sample)
        reasoning, answer = _reasoning_and_answer(text, row, step)
        checks.check_leaks(f"{reasoning}\n{answer}", row.question, step)
        checks.check_anchors(reasoning, step)
        return f"<think>\n{reasoning}\n</think>\n<answer>{answer}</answer>"


def _reasoning_and_answer(text: str, row: Question, step: str) -> tuple[str, str]:
    reasoning, answer = (checks.section(text, tag, step) for tag in ("reasoning", "answer"))
    for part in (reasoning, answer):
        checks.check_plain(part, step)
    checks.check_answer(answer, row.accepted, step)
    return reasoning, answer
