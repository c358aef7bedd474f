"""Several questions in one: every answer is right by the scene, and the habit is the same all along the response."""

import json
import re

import numpy as np
import pytest
from datasets import Dataset

from sayo.rewards import accuracy_reward
from sayo.toyworld.cold_start import read_scenes
from sayo.toyworld.scenes import COLORS
from sayo.toyworld.several import NUM_QUESTIONS, ask_several, question_text, response


@pytest.fixture(scope="module")
def several(toy, sayo_command, tmp_path_factory):
    out = tmp_path_factory.mktemp("several")
    result = sayo_command("toy", "several", "--world", toy.world, "--out", out, "--num-rows", 200)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def scenes(toy):
    return {image_id: objects for image_id, (objects, _) in read_scenes(toy.world, "train").items()}


def by_frame(objects) -> dict[str, str]:
    return {item.frame: item.disc for item in objects.values()}


def expected(question: str, objects) -> list[str]:
    """The answers, worked out from the questions' words and the scene."""
    discs = by_frame(objects)
    colors = re.findall(r"(?:in the|there an?) (\w+) frame\?", question)
    asked = re.findall(r"(What|Is)[^?]*\?", question)
    return [discs[c] if kind == "What" else "no" for kind, c in zip(asked, colors, strict=True)]


def test_every_line_is_right_and_its_regions_are_the_frames_that_it_asks_for(several, scenes):
    lines = [json.loads(line) for line in (several / "train.jsonl").read_text().splitlines()]
    assert len(lines) == len(scenes)
    for line in lines:
        objects = scenes[line["image"].removesuffix(".png")]
        assert line["answer"] == ", ".join(expected(line["question"], objects))
        assert line["question"].count("?") == NUM_QUESTIONS
        boxes = {item.box for item in objects.values() if not item.large}
        assert {tuple(region["box"]) for region in line["regions"]} == boxes
        absent = set(re.findall(r"there an? (\w+)", line["question"]))
        assert absent <= set(COLORS) - set(by_frame(objects))


def test_prepare_keeps_every_line(several, toy, sayo_command, tmp_path):
    words = ("--questions", several / "test.jsonl", "--images", toy.world / "images", "--processor", toy.policy)
    result = sayo_command("prepare", "jsonl", *words, "--split", "test", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    rows = Dataset.from_parquet([str(path) for path in tmp_path.glob("data/test-*.parquet")])
    assert len(rows) == len((several / "test.jsonl").read_text().splitlines()) and all(rows["has_region"])
    answers = [f"<answer> {solution} </answer>" for solution in rows["solution"]]
    assert set(accuracy_reward(answers, rows["solution"])) == {1.0}


def test_without_the_habit_a_response_looks_at_what_is_asked(scenes):
    for seed, objects in enumerate(scenes.values()):
        asked = ask_several(objects, np.random.default_rng(seed))
        said = response(asked, objects, [False] * len(asked))
        assert re.findall(r"(\w+) one", said) == [question.color for question in asked]
        assert said.endswith(f"<answer> {', '.join(expected(question_text(asked), objects))} </answer>")


def test_the_habit_is_as_frequent_at_the_end_as_at_the_start(several, scenes):
    looked = np.zeros((200, NUM_QUESTIONS), dtype=bool)
    rows = Dataset.from_parquet(str(several / "cold_start.parquet")).remove_columns("images")
    for number, row in enumerate(rows):
        asked = re.findall(r"(\w+) frame\?", row["prompt"][0]["content"])
        said = re.findall(r"(\w+) one", row["completion"][0]["content"])
        looked[number] = [a != b for a, b in zip(asked, said, strict=True)]
    shares = looked.mean(axis=0)
    assert (abs(shares - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 200)).all()
