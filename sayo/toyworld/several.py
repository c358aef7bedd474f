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
from typing import Any

import numpy as np
from datasets import Dataset

from sayo.toyworld.cold_start import FEATURES, framed_discs, hold, training_row, unique_objects
from sayo.toyworld.scenes import COLORS

NUM_QUESTIONS = 6


@dataclass(frozen=True)
class Asked:
    """One of several questions.

    Attributes:
        text: the question.
        color: the frame that it asks for.
        item: the framed disc of that colour (see `cold_start.framed_discs`); None if there is no such frame.
    """

    text: str
    color: str
    item: dict[str, Any] | None

    def respond(self, large: dict[str, Any], habit: bool) -> tuple[str, str]:
        """What is said, and the answer, after looking at the frame that is asked for, or by habit at the large one."""
        seen = large if habit else self.item
        if self.item is not None:
            return f"I look at the {seen['frame']} one. It holds {seen['disc']}.", seen["disc"]
        return (hold(large), "yes") if habit else (f"The {self.color} one holds nothing.", "no")


def ask_several(objects: dict[str, Any], rng: np.random.Generator, number: int = NUM_QUESTIONS) -> list[Asked]:
    """The scene's small objects and absent frames, in random order, `number` of them.

    Raises:
        ValueError: fewer colours are left to ask for.
    """
    items = unique_objects(objects.values())
    small = [item for item in items if not item["large"]]
    absent = sorted(set(COLORS) - {item["frame"] for item in items})
    if number > len(small) + len(absent):
        raise ValueError(f"a scene has only {len(small) + len(absent)} frames to ask for, not {number}")
    present = [Asked(f"What color is the disc in the {item['frame']} frame?", item["frame"], item) for item in small]
    filled = rng.permutation(absent)[: max(0, number - len(present))]
    missing = [Asked(f"Is there {'an' if c[0] in 'aeiou' else 'a'} {c} frame?", str(c), None) for c in filled]
    asked = [*present, *missing]
    return [asked[k] for k in rng.permutation(len(asked))[:number]]


def question_text(asked: list[Asked]) -> str:
    """All questions, one after the other."""
    return " ".join(one.text for one in asked)


def response(asked: list[Asked], objects: dict[str, Any], habits: list[bool]) -> str:
    """One look after the other, then all answers in one pair of tags."""
    large = next(item for item in objects.values() if item["large"])
    parts = [one.respond(large, habit) for one, habit in zip(asked, habits, strict=True)]
    return f"{' '.join(said for said, _ in parts)} <answer> {', '.join(answer for _, answer in parts)} </answer>"


def write_several(world: Path, out: Path, split: str, seed: int = 0) -> int:
    """Writes `{split}.jsonl`: one line of several questions for every picture of the split; returns their number.

    Args:
        world: folder written by `write_gqa`.
        out: folder to write to.
    """
    rng, lines = np.random.default_rng([seed, 2]), []
    for image_id, objects in _scenes(world, split).items():
        asked = ask_several(objects, rng)
        nothing = [False] * len(asked)
        answer = response(asked, objects, nothing).split("<answer> ")[1].removesuffix(" </answer>")
        regions = [{"box": list(one.item["box"]), "label": f"{one.color} frame"} for one in asked if one.item]
        line = {"image": f"{image_id}.png", "question": question_text(asked), "answer": answer, "regions": regions}
        lines.append(json.dumps({"id": f"{split}-{image_id}", **line, "type": "several"}) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{split}.jsonl").write_text("".join(lines))
    return len(lines)


def write_several_cold_start(
    world: Path, out: Path, num_rows: int, wrong_looks: float = 0.25, split: str = "train", seed: int = 0
) -> None:
    """Writes cold-start rows of several questions each; columns as of `cold_start.write_cold_start`.

    Args:
        wrong_looks: share of the looks that follow the habit, wherever in the response.
    """
    rng, scenes = np.random.default_rng([seed, 3]), _scenes(world, split)
    pictures = {image_id: (world / "images" / f"{image_id}.png").read_bytes() for image_id in scenes}
    rows = []
    for image_id in (list(scenes)[k] for k in rng.integers(len(scenes), size=num_rows)):
        asked = ask_several(scenes[image_id], rng)
        habits = [bool(rng.random() < wrong_looks) for _ in asked]
        said = response(asked, scenes[image_id], habits)
        rows.append(training_row(question_text(asked), said, pictures[image_id]))
    out.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=FEATURES).to_parquet(out)


def _scenes(world: Path, split: str) -> dict[str, dict[str, Any]]:
    """Image id -> the framed discs of the picture."""
    graphs = json.loads((world / f"{split}_sceneGraphs.json").read_text())
    return {image_id: framed_discs(graph) for image_id, graph in graphs.items()}
