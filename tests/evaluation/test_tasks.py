"""Every shipped task on a small file with its data set's columns, judged on written responses."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import yaml
from evaluation.conftest import png, write_task, written
from PIL import Image

from sayo.evaluation.questions import BadRow, Questions, parse_options
from sayo.evaluation.scoring import SCORERS, grade
from sayo.evaluation.tasks import TaskError, load_task, task_names, tasks_dir

NAMES = task_names()
VERDICTS = {"right": 1.0, "wrong": 0.0, "unanswered": 0.0}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    return {name: Questions(load_task(name), write_task(name, root / name), seed=3) for name in NAMES}


def cases():
    for task in NAMES:
        for index, entry in enumerate(written(task)):
            for verdict, score in VERDICTS.items():
                for text in entry.get(verdict, []):
                    yield task, index, text, score, verdict == "unanswered"
            for text, score in entry.get("part", {}).items():
                yield task, index, text, score, False


def test_the_issue_asks_for_these_tasks():
    asked = "mme_realworld_lite m3cot vstar mmstar mathvision wemath chartqa ai2d charxiv mathvista mathverse"
    asked += " hallusionbench mmmu mmmu_pro textvqa gqa pope local"
    assert set(asked.split()) <= set(NAMES)


@pytest.mark.parametrize("task", NAMES)
def test_twenty_responses_right_and_wrong(task):
    verdicts = [score for name, _, _, score, _ in cases() if name == task]
    assert len(verdicts) >= 20 and verdicts.count(1.0) >= 5 and verdicts.count(0.0) >= 5


@pytest.mark.parametrize(("task", "index", "text", "score", "unanswered"), cases())
def test_written_responses(questions, task, index, text, score, unanswered):
    row = questions[task][index]
    if row.get("options"):
        wrong = next(letter for letter in "ABCDEFGHIJ"[: len(row["options"])] if letter != row["solution"])
        text = text.replace("<right>", row["solution"]).replace("<wrong>", wrong)
    found = grade(text, row, load_task(task).scorer)
    assert found.score == pytest.approx(score), found
    assert (found.answer is None) == unanswered, found


@pytest.mark.parametrize("task", NAMES)
def test_questions_of_a_task(questions, task):
    asked, entries = questions[task], written(task)
    assert len(asked) == len(entries)
    assert len({asked.id_of(index) for index in range(len(asked))}) == len(asked)
    for index, entry in enumerate(entries):
        row = asked[index]
        assert row["images"] and all(image.size == (64, 48) and image.mode == "RGB" for image in row["images"])
        assert row["solution"] and row["question_type"]
        prompt = row["prompt"][0]["content"]
        assert "None" not in prompt and "{" not in prompt.replace("\\boxed{}", "")
        for option in row.get("options") or []:
            shown = row["question"] if task == "mathvista" else prompt
            assert option in shown or task == "mmmu_pro_vision"
        assert row["question"] == entry["row"].get(load_column(task, "question"), row["question"])
    assert len(questions["mmmu"][0]["images"]) == 2


def load_column(task: str, key: str) -> str | None:
    columns = load_task(task).columns
    return getattr(columns, key) if columns else key


def test_vstar_shuffles_by_seed(tmp_path):
    rows = [dict(written("vstar")[0]["row"]) for _ in range(24)]
    folder = write_task("vstar", tmp_path / "vstar", rows)
    task = load_task("vstar")
    asked = [Questions(task, folder, seed=seed) for seed in (0, 0, 1)]
    letters = [[one[index]["solution"] for index in range(24)] for one in asked]
    assert letters[0] == letters[1] != letters[2]
    assert set(letters[0]) == set("ABCD")
    for index in range(24):
        row = asked[0][index]
        right = row["options"]["ABCD".index(row["solution"])]
        assert right == rows[0]["options"][0]
        assert f"{row['solution']}. {right}" in row["prompt"][0]["content"]


def test_boxes_become_regions(questions):
    assert [region["box"] for region in questions["vstar"][1]["regions"]] == [[4, 4, 12, 12], [30, 20, 46, 30]]
    assert [region["box"] for region in questions["textvqa"][0]["regions"]] == [[10, 20, 22, 26]]
    assert questions["vstar"].has_regions and not questions["mmstar"].has_regions


@pytest.mark.parametrize("task", [name for name in NAMES if name != "local"])
def test_a_missing_column_is_named(task, tmp_path):
    columns = load_task(task).columns
    missing = columns.answer if task not in ("vstar",) else columns.boxes
    rows = [{key: value for key, value in entry["row"].items() if key != missing} for entry in written(task)]
    with pytest.raises(TaskError, match=rf"no column '{re.escape(missing)}'"):
        Questions(load_task(task), write_task(task, tmp_path / task, rows))


def test_a_picture_that_does_not_decode(task_files):
    row = dict(written("mmstar")[0]["row"])
    rows = [
        row,
        {**row, "index": 8, "image": {"bytes": b"no picture", "path": None}},
        {**row, "index": 9, "image": None},
    ]
    rows.append({**row, "index": 10, "image": {"bytes": png(1)[:300], "path": None}})
    asked = Questions(load_task("mmstar"), task_files("mmstar", rows))
    assert asked[0]["images"]
    for index in (1, 2, 3):
        with pytest.raises(BadRow, match="cannot be decoded") as caught:
            asked[index]
        assert caught.value.kind == "image"


def test_pictures_are_turned_upright(task_files):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 60, 3), np.uint8)).save(buffer, "JPEG", exif=exif)
    row = {**written("mmstar")[0]["row"], "image": {"bytes": buffer.getvalue(), "path": None}}
    assert Questions(load_task("mmstar"), task_files("mmstar", [row]))[0]["image_sizes"] == [[20, 60]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["(A) x", "(B) y"], ["x", "y"]),
        ("['x', \"it's\"]", ["x", "it's"]),
        ("A. 3 cm; B. 4 cm; C. No correct answer", ["3 cm", "4 cm", "No correct answer"]),
        ("A. one\nB. two", ["one", "two"]),
        (["A. Smith", "A. Jones"], ["A. Smith", "A. Jones"]),
        (["A", "B"], ["A", "B"]),
        ("[]", []),
        (None, []),
    ],
)
def test_forms_of_options(value, expected):
    assert parse_options(value) == expected


def test_reference_that_is_no_option(task_files):
    row = {**written("m3cot")[0]["row"], "answer": "F"}
    with pytest.raises(BadRow, match="none of the 3 options"):
        Questions(load_task("m3cot"), task_files("m3cot", [row]))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scorer": "choise"}, "Did you mean `choice`"),
        ({"colums": {}}, "unknown key `colums`. Did you mean `columns`"),
        ({"columns": {"answer": "answer"}}, "lacks the key `images`"),
        ({"columns": {"answer": "a", "images": "b", "qestion": "c"}}, "Did you mean `question`"),
        ({"answer_form": "index"}, "needs `columns.options`"),
        ({"columns": ["answer"]}, "must be a mapping"),
        ({"box_format": "cxcywh"}, "box_format"),
    ],
)
def test_a_task_file_that_is_wrong(tmp_path, change, message):
    values = yaml.safe_load((tasks_dir() / "mmstar.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**values, **change}))
    with pytest.raises(TaskError, match=re.escape(message)):
        load_task(str(path))


def test_unknown_task_and_missing_file():
    with pytest.raises(TaskError, match="Did you mean `mmstar`"):
        load_task("mmstarr")
    with pytest.raises(TaskError, match="no task file"):
        load_task("nowhere/mine.yaml")


def test_every_scorer_survives_any_text():
    texts = [
        "",
        "\\boxed{",
        "<answer>",
        "A" * 5000,
        "yes no yes",
        "$$$",
        "\x00",
        "答案是B",
        "1e999",
        "=" * 300,
        "=-=-=",
    ]
    for scorer in SCORERS:
        for text in texts:
            row = {"solution": "3", "answers": ["3", "4"], "precision": 2}
            assert 0.0 <= grade(text, row, scorer).score <= 1.0
    assert grade("anything", {"solution": None}, "math").score is None
