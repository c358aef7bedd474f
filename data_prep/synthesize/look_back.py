r"""Look-Back's training data: a check against the image is put into a chain of thought.

Source: Look-Back (arXiv 2507.03019), semantic and solution styles; data, prompts and filters were not released, these
are ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from data_prep.examples import PrepareError, RejectError
from data_prep.synthesize import checks, prompts
from data_prep.synthesize.roles import Roles
from data_prep.synthesize.rows import Question
from data_prep.synthesize.sampling import first_good
from sayo.answers.extract import completion_text
from sayo.prompts import USER_SUFFIX

ROLES = ("cot", "back")


class LookBack:
    r"""Question -> `<think>..</think><back>..</back><think>..</think>\boxed{answer}`.

    Args:
        roles: `back` writes the check; `cot` samples the chain of thought where `chains` is None.
        style: "semantic" (a check in the midst of the reasoning) or "solution" (after it).
        chains: id of a row -> chain of thought of the policy.
        tries: samples of the writer before a row is given up.
    """

    def __init__(self, roles: Roles, style: str, chains: Mapping[str, str] | None = None, tries: int = 2):
        self.roles, self.style, self.chains, self.tries = roles, style, chains, tries
        self.suffix = USER_SUFFIX[f"{style}-back"]

    def __call__(self, row: Question) -> str:
        """The completion.

        Raises:
            RejectError: why there is none.
        """
        if not row.accepted:
            raise RejectError("no_solution", "the row has no answer to compare with")
        chain = self._chain(row)
        return first_good(self.tries, lambda sample: self._written(row, chain, sample))

    def _chain(self, row: Question) -> str:
        if self.chains is None:
            instruction = f"{row.question}\n{USER_SUFFIX['cot']}"
            return self.roles.ask("cot", row, instruction, pictures=True)
        if not self.chains.get(row.id, "").strip():
            raise RejectError("no_cot", "the file of --cots holds no completion of this row")
        return self.chains[row.id]

    def _written(self, row: Question, chain: str, sample: int) -> str:
        step = f"back/{sample}"
        instruction = prompts.look_back(row.question, row.accepted[0], chain, self.style)
        text = checks.section(self.roles.ask("back", row, instruction, True, sample), "response", step)
        checks.check_text(text, step)
        checks.check_look_back(text, row.accepted, row.question, row.labels, step)
        checks.check_given_answer(text, step)
        checks.check_leaks(text, row.question, step, ("blind",))
        return text


def read_chains(path: Path) -> dict[str, str]:
    """Chains of thought by row id, from JSON lines with `id` and `completions` (the first one with text counts) or
    `completion`, such as `samples.jsonl` of `sayo evaluate`.

    Raises:
        PrepareError: a line is something else.
    """
    chains: dict[str, str] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                given = record["completions"] if "completions" in record else [record["completion"]]
                texts = [completion_text(completion) for completion in given]
                chains.setdefault(str(record["id"]), next((text for text in texts if text.strip()), ""))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise PrepareError(
                    f"{path}, line {number} has no id and completions ({type(error).__name__}: {error}); give "
                    "samples.jsonl of `sayo evaluate`, or lines with id and completion"
                ) from None
    return chains
