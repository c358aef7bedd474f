"""Before and after training, for people in a hurry: where a policy looks as it names its answer."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sayo.answers.extract import extract_answer
from sayo.draw import draw_picture, new_figure, plain, spotlight
from sayo.rewards import accuracy_reward
from sayo.viz.look import Look
from sayo.viz.trend import Response

SIDE_INCHES = 1.75
OUTLINE = 0.8  # thinner than usual: the pictures are small
COLORS = {True: "#15803d", False: "#b91c1c"}  # of a right answer and a wrong one


class Named(NamedTuple):
    """What a response names as its answer, and where it looks then.

    Attributes:
        answer: its words.
        token: place, in the response, of the token with which they begin: in their last mention before the answer
            itself ("It holds red. <answer>red</answer>"), which only repeats them; in the answer where there is none.
        right: as the accuracy reward says.
        share: attention of the row that chose this token on the region, mean over the layers.
    """

    answer: str
    token: int
    right: bool
    share: float


def named_answer(response: Response) -> Named | None:
    """None for a response without an answer, or to a question without a region."""
    answer = extract_answer(response.text)
    if not answer or not response.trace.has_region:
        return None
    mentions = [found.start() for found in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", response.text)]
    if not mentions:
        return None
    token = next(index for index, (_, end) in enumerate(response.offsets) if end > mentions[-2:][0])
    completion = [{"role": "assistant", "content": response.text}]
    row = response.row
    (score,) = accuracy_reward([completion], [row["solution"]], [row.get("answers")], prompts=[row["prompt"]])
    share = float(response.trace.mass("region", "deciding")[:, token].mean())
    return Named(answer, token, bool(score), share)


def first_mistakes(before: Sequence[Named | None], after: Sequence[Named | None], count: int) -> list[int]:
    """The first `count` questions that both policies answered, the one before wrongly: no result is picked."""
    pairs = enumerate(zip(before, after, strict=True))
    return [index for index, (old, new) in pairs if old and new and not old.right][:count]


def caption(before: Sequence[Named | None], after: Sequence[Named | None]) -> str:
    """Means over all questions, so that a few pictures are not taken for the result."""
    lines = []
    for label, found in (("before", before), ("after", after)):
        known = [named for named in found if named is not None]
        share, right = (np.mean([getattr(named, name) for named in known]) for name in ("share", "right"))
        lines.append(f"{label}: {share:.1%} on the target as the answer is named, {right:.0%} right")
    return f"Mean of {len(before)} held-out questions: {'; '.join(lines)}."


def save_before_after(pairs: Sequence[Sequence[tuple[Look, Named]]], text: str, path: str | Path) -> Path:
    """A line for each question: the picture, then before and after, lit up where the row of the answer's token looks.

    Args:
        pairs: per question the look and the answer before and after; one scale of brightness per question.
        text: below the pictures.
    """
    tallest = max(look.images[0].height / look.images[0].width for (look, _), _ in pairs)
    height = len(pairs) * (SIDE_INCHES * min(tallest, 1.3) + 0.5) + 0.35
    with new_figure(path, 3 * SIDE_INCHES + 0.3, height) as figure:
        figure.supxlabel(plain(text, wrap=92), fontsize=7)
        for pair, line in zip(pairs, figure.subplots(len(pairs), 3, squeeze=False), strict=True):
            first = pair[0][0]
            regions = [{**region, "role": "answer"} for region in first.regions if region["image"] == 0]
            draw_picture(line[0], first.images[0], regions, linewidth=OUTLINE)
            line[0].set_title(plain(first.question, wrap=30), fontsize=8)
            views = [(look.views()[0], look.trace.map("deciding").mean(axis=0)[named.token]) for look, named in pair]
            lit = [(view.cells, values[view.tokens]) for view, values in views]
            peak = max(float(values.max()) for _, values in lit)
            for axes, label, (look, named), (cells, values) in zip(
                line[1:], ("before", "after"), pair, lit, strict=True
            ):
                draw_picture(axes, look.images[0], regions, spotlight(cells, values, peak), OUTLINE)
                verdict = "right" if named.right else "wrong"
                title = f"{label}: “{plain(named.answer, 24)}” ({verdict})\n{named.share:.1%} on the target"
                axes.set_title(title, fontsize=8, color=COLORS[named.right])
    return Path(path)
