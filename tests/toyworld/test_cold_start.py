"""Cold-start data and several questions in one: right where they should be, wrong only where the habit looks."""

import json
import re

import numpy as np
import pytest
from datasets import Dataset

from sayo.answers.extract import parse_look_back
from sayo.rewards import accuracy_reward
from sayo.toyworld.cold_start import DESCRIBE, answer, describe, in_look_back_form, read_scenes, write_cold_start
from sayo.toyworld.scenes import COLORS, USUAL
from sayo.toyworld.several import NUM_QUESTIONS, ask_several, question_text, response


@pytest.fixture(scope="module")
def asked(toy):
    scenes = read_scenes(toy.world, "train")
    questions = json.loads((toy.world / "train_questions.json").read_text())
    return [(record, scenes[record["imageId"]][0]) for record in questions.values()]


def said(response):
    return re.fullmatch(r".*\. <answer> (\w+) </answer>", response)[1]


def test_without_the_habit_every_answer_is_right(asked):
    for record, objects in asked:
        assert said(answer(record, objects)) == record["answer"]


def test_the_habit_looks_at_the_large_object_and_is_mostly_wrong(asked):
    right = []
    for record, objects in asked:
        response = answer(record, objects, "salient")
        large = next(item.frame for item in objects.values() if item.large)
        assert large in response.split(" <answer>")[0]
        right.append(said(response) == record["answer"])
    assert 0.1 < sum(right) / len(right) < 0.5


def test_the_usual_colour_is_stated_without_a_look(asked):
    for record, objects in asked:
        response = answer(record, objects, "usual")
        if record["types"]["semantic"] == "attr":
            frame = record["question"].split()[-2]
            assert response == f"I look at the {frame} one. It holds {USUAL[frame]}. <answer> {USUAL[frame]} </answer>"
        else:
            assert response == answer(record, objects)


def test_a_description_names_every_object(asked):
    for _, objects in asked:
        pairs = re.findall(r"The (\w+) one holds (\w+)\.", describe(objects))
        assert dict(pairs) == {item.frame: item.disc for item in objects.values()}


@pytest.fixture
def rows_of(toy, tmp_path):
    """The rows of a cold-start file made with some options."""

    def write(**options):
        write_cold_start(toy.world, tmp_path / "a.parquet", **options)
        return Dataset.from_parquet(str(tmp_path / "a.parquet"), keep_in_memory=True)

    return write


def test_file_is_trl_prompt_completion_with_images(rows_of):
    rows = rows_of(num_rows=200, warm_up=0.25, descriptions=0.2)
    assert rows.column_names == ["prompt", "completion", "images"] and len(rows) == 200
    described = [row["prompt"] == [{"role": "user", "content": DESCRIBE}] for row in rows]
    assert all(described[:50]) and 10 <= sum(described[50:]) <= 55
    assert all(row["completion"][0]["role"] == "assistant" and row["images"][0].size == (64, 64) for row in rows)


def test_questions_repeat_when_there_are_fewer(rows_of, asked):
    rows = rows_of(num_rows=3 * len(asked), warm_up=0, descriptions=0, wrong_looks=0)
    assert sorted(row[0]["content"] for row in rows["prompt"]) == sorted(
        3 * [record["question"] for record, _ in asked]
    )


def test_same_seed_same_rows(rows_of):
    a, b, c = (rows_of(num_rows=50, seed=seed).remove_columns("images").to_list() for seed in (0, 0, 1))
    assert a == b != c


def test_look_back_form():
    first, second = "The red one holds blue. <answer> yes </answer>", "I look at red. <answer> 1 </answer>"
    said = in_look_back_form(first, second)
    form = "<think> The red one holds blue. </think> <back> I look at red. </back> <think> It is 1. </think>"
    assert said == form + r" \boxed{ 1 }" and parse_look_back(said).strict


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
