r"""How a completion comes about: AVAR's visual anchors, and Look-Back's checks against the image.

Sources: AVAR (arXiv 2603.03825), section on data; Look-Back (arXiv 2507.03019), semantic and solution styles. Neither
released its data, prompts or filters; these are ours. The instructions are the jinja templates in `templates/`: models
put what counts between tags of our own (`<description>`, `<reasoning>`, `<response>`), so that a thinking model's own
`<think>` is never mixed up with it.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from data_prep.synthesize import checks
from data_prep.synthesize.roles import Roles
from data_prep.synthesize.rows import PreparedQuestion
from data_prep.texts import render_text
from sayo.errors import RejectedError
from sayo.prompts import USER_SUFFIX

ROLES = {"visual-anchors": ["describe", "reason", "anchor"], "look-back": ["cot", "back"]}
_Sample = TypeVar("_Sample")
_SECTIONS = ("scan", "elements", "links", "description")


def writer_of(method: str, style: str, tries: int) -> tuple[str, Callable[..., Awaitable[str]], str]:
    """Name of the method in the summary, its function below, and what goes under the questions in the data."""
    if method == "visual-anchors":
        return method, partial(visual_anchors, tries=tries), ""
    return f"{method} {style}", partial(look_back, style=style, tries=tries), USER_SUFFIX[f"{style}-back"]


async def _first_passing(draw: Callable[[int], Awaitable[_Sample]], tries: int) -> _Sample:
    """`draw(0)`, or the first of `draw(1)`, ... that passes its checks; else the last sample's `RejectedError`."""
    for sample in range(tries - 1):
        try:
            return await draw(sample)
        except RejectedError:
            continue
    return await draw(tries - 1)


async def visual_anchors(row: PreparedQuestion, roles: Roles, tries: int = 2) -> str:
    """Question -> `<think>reasoning with visual anchors</think>` and `<answer>answer</answer>`.

    Args:
        roles: `describe` is shown the image, `reason` only the description, `anchor` only the reasoning.
        tries: samples of the reasoning, and of its rewriting, before the row is given up with the last one's error.
    """

    async def reason(sample: int) -> tuple[str, str]:
        instruction = render_text("synthesize/templates/reason.jinja", question=row.question, description=description)
        text = await roles.ask("reason", row, instruction, sample=sample)
        return _reasoning_and_answer(text, row, f"reason/{sample}")

    async def anchor(sample: int) -> str:
        step = f"anchor/{sample}"
        instruction = render_text(
            "synthesize/templates/anchor.jinja", question=row.question, reasoning=reasoning, answer=answer
        )
        text = await roles.ask("anchor", row, instruction, sample=sample)
        anchored, repeated = _reasoning_and_answer(text, row, step)
        checks.check_leaks(f"{anchored}\n{repeated}", row.question, step, ("text", "blind"))
        checks.check_anchors(anchored, step)
        return f"<think>\n{anchored}\n</think>\n<answer>{repeated}</answer>"

    shown = await roles.ask(
        "describe", row, render_text("synthesize/templates/describe.jinja", question=row.question), images=True
    )
    description = "\n\n".join(checks.section(shown, tag, "describe") for tag in _SECTIONS)
    reasoning, answer = await _first_passing(reason, tries)
    return await _first_passing(anchor, tries)


def _reasoning_and_answer(text: str, row: PreparedQuestion, step: str) -> tuple[str, str]:
    reasoning, answer = (checks.section(text, tag, step) for tag in ("reasoning", "answer"))
    for part in (reasoning, answer):
        checks.check_text(part, step)
    checks.check_answer(answer, row.accepted, step)
    return reasoning, answer


async def look_back(row: PreparedQuestion, roles: Roles, style: str, tries: int = 2) -> str:
    r"""Question -> `<think>..</think><back>..</back><think>..</think>\boxed{answer}`.

    Args:
        roles: `cot` samples the chain of thought, `back` puts the check into it; both are shown the image.
        style: "semantic" (a check in the midst of the reasoning) or "solution" (after it).
        tries: samples of `back` before the row is given up with the last one's error.
    """

    async def back(sample: int) -> str:
        step = f"back/{sample}"
        text = checks.section(await roles.ask("back", row, instruction, True, sample), "response", step)
        checks.check_text(text, step, tags=True)
        checks.check_look_back(text, row.accepted, row.question, row.labels, step)
        checks.check_leaks(text, row.question, step, ("answer", "blind"))
        return text

    chain = await roles.ask("cot", row, f"{row.question}\n{USER_SUFFIX['cot']}", images=True)
    values = {"question": row.question, "reasoning": chain, "answer": row.accepted[0], "style": style}
    instruction = render_text("synthesize/templates/look_back.jinja", **values)
    return await _first_passing(back, tries)
