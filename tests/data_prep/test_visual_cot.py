"""Visual-CoT's conversation form: the padded square is turned back, and pixels behind ### come first."""

from __future__ import annotations

import pytest

ASK = "<image>\nWhat is on the mat? Please provide the bounding box coordinate of the region that can help you."
BOX = [120, 60, 200, 160]


def on_padded_square(box: list[float], size: tuple[int, int]) -> str:
    """As the data set's authors normalise: (x + (H - W) // 2) / max on the padded side (datasets.md, 2.5)."""
    (w, h), (x1, y1, x2, y2) = size, box
    left, top = (max(h - w, 0)) // 2, (max(w - h, 0)) // 2
    side = max(w, h)
    return str(
        [round(value, 5) for value in ((x1 + left) / side, (y1 + top) / side, (x2 + left) / side, (y2 + top) / side)]
    )


def conversation(box: str, pixels: str | None = None, **more) -> dict:
    images = ["cot/a.jpg", f"cot/a.jpg###{pixels}"] if pixels else ["cot/a.jpg", "cot/a.jpg"]
    values = (ASK, box, "<image>", "A cat.")
    turns = [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)]
    return {"image": images, "conversations": turns, "dataset": "flickr30k", **more}


def prepare(bench, *records, size=(320, 200)):
    bench.picture("cot/a.jpg", size)
    file = bench.json(list(records), "viscot_363k.json")
    return bench.prepare("visual-cot", "--questions", file, "--images", bench.images)


@pytest.mark.parametrize("size", [(320, 200), (200, 320), (256, 256), (321, 200), (203, 334)])
def test_box_on_the_padded_square_is_turned_back(bench, size: tuple[int, int]):
    assert prepare(bench, conversation(on_padded_square(BOX, size)), size=size).exit_code == 0
    (row,) = bench.rows()
    assert row["regions"][0]["box"] == pytest.approx(BOX, abs=0.01)
    assert (row["question"], row["solution"], row["question_type"]) == ("What is on the mat?", "A cat.", "flickr30k")
    if size != (256, 256):  # plain shares of the sides would be another box
        plain = [BOX[0] / size[0], BOX[1] / size[1], BOX[2] / size[0], BOX[3] / size[1]]
        assert on_padded_square(BOX, size) != str([round(value, 5) for value in plain])


def test_pixels_behind_the_marks_come_first(bench):
    assert prepare(bench, conversation("[0.1, 0.2, 0.3, 0.4]", "[120, 60, 200, 160]")).exit_code == 0
    assert bench.rows()[0]["regions"][0]["box"] == BOX


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (conversation("[120, 60, 200, 160]"), "box_looks_like_pixels"),
        (conversation("none"), "malformed_record"),
        (conversation("[0.1, 0.2, 0.3]"), "malformed_record"),
        (conversation("[0.3, 0.2, 0.1, 0.4]"), "reversed_box"),
        (conversation("[NaN, 0.2, 0.3, 0.4]"), "nan_box"),
        (conversation("[0.1, 0.0, 0.3, 0.1]"), "box_outside_image"),  # in the padding above the picture
        (conversation("[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.3, 0.4]"), "box_looks_normalised"),
        (conversation("[0.1, 0.2, 0.3, 0.4]", "[1, 2"), "malformed_record"),
        ({**conversation("x"), "conversations": []}, "malformed_record"),
        ({**conversation("x"), "image": 5}, "malformed_record"),
        ({**conversation("[0.1, 0.2, 0.3, 0.4]"), "image": ["../a.jpg"]}, "path_outside_image_dir"),
        ({"question": "What?", "answer": "x", "image": "cot/a.jpg", "bboxs": []}, "malformed_record"),
        ({"question": "What?", "answer": "x", "image": "cot/a.jpg", "bboxs": [BOX, [5, 5, 5, 9]]}, "zero_area_box"),
        ({"question": "What?", "image": "cot/a.jpg", "bboxs": [BOX]}, "no_answer"),
    ],
)
def test_bad_rows_are_named(bench, record: dict, reason: str):
    sound = conversation(on_padded_square(BOX, (320, 200)))
    assert prepare(bench, sound, record).exit_code == 0
    assert bench.summary()["rejected_by_reason"] == {reason: 1}


def test_several_boxes_stay_apart(bench):
    boxes = [BOX, [10, 10, 40, 40]]
    record = {"question": "What?", "answer": "x", "image": "cot/a.jpg", "bboxs": boxes, "dataset": "cub"}
    assert prepare(bench, record).exit_code == 0
    assert [region["box"] for region in bench.rows()[0]["regions"]] == boxes
