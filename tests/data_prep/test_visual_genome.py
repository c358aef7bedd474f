"""Visual Genome questions: objects of the answer and of the question, in either spelling of their size."""

from __future__ import annotations

import pytest

DOG = {"object_id": 1, "x": 20, "y": 30, "w": 40, "h": 50, "names": ["dog"], "synsets": []}
MAT = {"object_id": 2, "x": 0, "y": 60, "width": 300, "height": 100, "name": "mat"}


def qa(number: int, **more) -> dict:
    return {"qa_id": number, "image_id": 7, "question": "What is on the mat?", "answer": "A dog.",
            "a_objects": [DOG], "q_objects": [MAT], **more}  # fmt: skip


def prepare(bench, *qas, entries=None):
    bench.picture("VG_100K_2/7.jpg")
    url = "https://cs.stanford.edu/people/rak248/VG_100K_2/7.jpg"
    data = bench.json([{"image_id": 7, "width": 320, "height": 200, "url": url, "coco_id": None}], "image_data.json")
    questions = bench.json(entries or [{"id": 7, "qas": list(qas)}], "question_answers.json")
    return bench.prepare("visual-genome", "--questions", questions, "--image-data", data, "--images", bench.images)


def test_objects_become_answer_and_evidence(bench):
    assert prepare(bench, qa(1), qa(2, a_objects=[], q_objects=[])).exit_code == 0
    row, without = bench.rows()
    assert [(r["role"], r["label"], r["box"]) for r in row["regions"]] == [
        ("answer", "dog", [20, 30, 60, 80]),
        ("evidence", "mat", [0, 60, 300, 160]),
    ]
    assert (row["solution"], row["answers"], row["question_type"]) == ("A dog", ["A dog", "A dog."], "what")
    assert row["images"][0]["path"] == "VG_100K_2/7.jpg"
    assert without["has_region"] is False


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (qa(9, image_id=8), "unknown_image"),
        (qa(9, a_objects=[{**DOG, "w": None}]), "nan_box"),
        (qa(9, a_objects=[{**DOG, "w": 0}]), "zero_area_box"),
        (qa(9, a_objects=[{**DOG, "x": 400}]), "box_outside_image"),
        (qa(9, a_objects={"x": 1}), "malformed_record"),
        (qa(9, a_objects=[5]), "malformed_record"),
        (qa(9, answer=None), "no_answer"),
        (qa(1), "duplicate_id"),
        ("question", "malformed_record"),
    ],
)
def test_bad_questions_are_named(bench, bad, reason: str):
    assert prepare(bench, qa(1), bad).exit_code == 0
    assert bench.summary()["rejected_by_reason"] == {reason: 1}


def test_an_entry_without_questions_is_a_reject(bench):
    assert prepare(bench, entries=[{"id": 7, "qas": [qa(1)]}, {"id": 8}, 5]).exit_code == 0
    assert bench.summary()["rejected_by_reason"] == {"malformed_record": 2}
