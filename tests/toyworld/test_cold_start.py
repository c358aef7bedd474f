"""Cold-start data: in TRL's format, right where it should be and wrong only where the habit looks."""

import json
import re

import pytest
from datasets import Dataset

from sayo.answers.extract import parse_look_back
from sayo.toyworld.cold_start import DESCRIBE, answer, describe, in_look_back_form, read_scenes, write_cold_start
from sayo.toyworld.scenes import USUAL


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
