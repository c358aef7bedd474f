"""Several questions about one picture, answered in one long response, so that attention has time to drift.

Written as JSON lines for `sayo prepare jsonl`, with the frames in question as regions, and as cold-start rows. The
questions cover every small object of the scene and some absent frames, never the large object. The cold start teaches
the same habit as `cold_start`: a share of the looks goes to the large object, equally often at the start and the end
of a response. Any drift over the response is therefore the policy's.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sayo.toyworld.cold_start import hold, large_object, look_at_disc, read_scenes, write_completions
from sayo.toyworld.scenes import COLORS, FramedDisc

NUM_QUESTIONS = 6


class FrameQuestion(NamedTuple):
    """A question about the frame of colour `color`; `item` is None if the scene has no such frame."""

    text: str
    color: str
    item: FramedDisc | None


def ask_several(objects: dict[str, FramedDisc], rng: np.random.Generator) -> list[FrameQuestion]:
    """`NUM_QUESTIONS` questions in random order: about all small objects, the rest about absent frames."""
    items = list(dict.fromkeys(objects.values()))
    small = [item for item in items if not item.large]
    absent = rng.permutation(sorted(set(COLORS) - {item.frame for item in items}))[: NUM_QUESTIONS - len(small)]
    asked = [
        *(FrameQuestion(f"What color is the disc in the {item.frame} frame?", item.frame, item) for item in small),
        *(FrameQuestion(f"Is there {'an' if c[0] in 'aeiou' else 'a'} {c} frame?", str(c), None) for c in absent),
    ]
    return [asked[k] for k in rng.permutation(len(asked))]


def question_text(asked: list[FrameQuestion]) -> str:
    """All questions in one text."""
    return " ".join(question.text for question in asked)


def response(asked: list[FrameQuestion], objects: dict[str, FramedDisc], habits: list[bool]) -> str:
    """One look per question, at its frame or by habit at the large one, then all answers in one pair of tags."""
    looks, answers, large = [], [], large_object(objects)
    for question, habit in zip(asked, habits, strict=True):
        seen = large if habit else question.item
        if question.item is None:
            looks.append(hold(large) if habit else f"The {question.color} one holds nothing.")
            answers.append("yes" if habit else "no")
        else:
            looks.append(look_at_disc(seen))
            answers.append(seen.disc)
    return f"{' '.join(looks)} <answer> {', '.join(answers)} </answer>"


def write_several(world: Path, out: Path, split: str, seed: int = 0) -> int:
    """Writes `out/{split}.jsonl`, a line per picture of `world` (a folder of `write_gqa`); returns their number."""
    rng, lines = np.random.default_rng([seed, 2]), []
    for image_id, (objects, _) in read_scenes(world, split).items():
        asked = ask_several(objects, rng)
        answer = ", ".join(question.item.disc if question.item else "no" for question in asked)
        line = {"id": f"{split}-{image_id}", "image": f"{image_id}.png", "type": "several"}
        line |= {"question": question_text(asked), "answer": answer}
        line["regions"] = [{"box": q.item.box, "label": f"{q.color} frame"} for q in asked if q.item]
        lines.append(json.dumps(line) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{split}.jsonl").write_text("".join(lines))
    return len(lines)


def write_several_cold_start(world: Path, out: Path, num_rows: int, wrong_looks: float = 0.25, seed: int = 0) -> None:
    """As `cold_start.write_cold_start`, with several questions per row; `wrong_looks` is a share of all looks."""
    rng, scenes, rows = np.random.default_rng([seed, 3]), list(read_scenes(world, "train").values()), []
    for objects, picture in (scenes[k] for k in rng.integers(len(scenes), size=num_rows)):
        asked = ask_several(objects, rng)
        habits = [bool(rng.random() < wrong_looks) for _ in asked]
        rows.append((question_text(asked), response(asked, objects, habits), picture))
    write_completions(rows, out)
