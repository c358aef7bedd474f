"""Several questions about one picture, answered in one long response: time enough for attention to drift.

Written as JSON lines for `sayo prepare jsonl`, with the frames that are asked for as regions, and as cold-start rows.
Every small object of the scene is asked for, and frames that are not there; the large object never is. The cold start
has the habit of the short one (see `cold_start`): a share of looks goes to the large object, as often at the end of
a response as at its start. Any change over the response is the policy's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sayo.toyworld.cold_start import hold, large_object, look, read_scenes, write_rows
from sayo.toyworld.scenes import COLORS, FramedDisc

NUM_QUESTIONS = 6


@dataclass(frozen=True)
class Asked:
    """One of several questions.

    Attributes:
        text: the question.
        color: the frame that it asks for.
        item: the framed disc of that colour; None if there is no such frame.
    """

    text: str
    color: str
    item: FramedDisc | None

    def respond(self, large: FramedDisc, habit: bool) -> tuple[str, str]:
        """What is said, and the answer, after looking at the frame that is asked for, or by habit at the large one."""
        if self.item is None:
            return (hold(large), "yes") if habit else (f"The {self.color} one holds nothing.", "no")
        seen = large if habit else self.item
        return look(seen), seen.disc


def ask_several(objects: dict[str, FramedDisc], rng: np.random.Generator) -> list[Asked]:
    """The scene's small objects and absent frames, in random order, `NUM_QUESTIONS` of them."""
    items = list(dict.fromkeys(objects.values()))
    small = [item for item in items if not item.large]
    absent = rng.permutation(sorted(set(COLORS) - {item.frame for item in items}))[: NUM_QUESTIONS - len(small)]
    asked = [
        *(Asked(f"What color is the disc in the {item.frame} frame?", item.frame, item) for item in small),
        *(Asked(f"Is there {'an' if c[0] in 'aeiou' else 'a'} {c} frame?", str(c), None) for c in absent),
    ]
    return [asked[k] for k in rng.permutation(len(asked))]


def question_text(asked: list[Asked]) -> str:
    """All questions, one after the other."""
    return " ".join(question.text for question in asked)


def response(asked: list[Asked], objects: dict[str, FramedDisc], habits: list[bool]) -> str:
    """One look after the other, then all answers in one pair of tags."""
    large = large_object(objects)
    parts = [question.respond(large, habit) for question, habit in zip(asked, habits, strict=True)]
    return f"{' '.join(said for said, _ in parts)} <answer> {', '.join(answer for _, answer in parts)} </answer>"


def write_several(world: Path, out: Path, split: str, seed: int = 0) -> int:
    """Writes `{split}.jsonl`: one line of several questions for every picture of the split; returns their number.

    Args:
        world: folder written by `write_gqa`.
        out: folder to write to.
    """
    rng, lines = np.random.default_rng([seed, 2]), []
    for image_id, (objects, _) in read_scenes(world, split).items():
        asked = ask_several(objects, rng)
        line = {
            "id": f"{split}-{image_id}",
            "image": f"{image_id}.png",
            "question": question_text(asked),
            "answer": ", ".join(question.item.disc if question.item else "no" for question in asked),
            "regions": [{"box": q.item.box, "label": f"{q.color} frame"} for q in asked if q.item],
            "type": "several",
        }
        lines.append(json.dumps(line) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{split}.jsonl").write_text("".join(lines))
    return len(lines)


def write_several_cold_start(world: Path, out: Path, num_rows: int, wrong_looks: float = 0.25, seed: int = 0) -> None:
    """Writes cold-start rows of several questions each about train pictures, as `cold_start.write_cold_start` does.

    Args:
        wrong_looks: share of the looks that follow the habit, wherever in the response.
    """
    rng, scenes, rows = np.random.default_rng([seed, 3]), list(read_scenes(world, "train").values()), []
    for objects, picture in (scenes[k] for k in rng.integers(len(scenes), size=num_rows)):
        asked = ask_several(objects, rng)
        habits = [bool(rng.random() < wrong_looks) for _ in asked]
        rows.append((question_text(asked), response(asked, objects, habits), picture))
    write_rows(rows, out)
