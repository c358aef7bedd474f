"""Every row of the RefCOCO and Visual-CoT samples, through the command, against boxes read off the records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parent / "samples"
# file -> (source, split, field of the image, of the question, of the boxes)
FILES = {
    "refcoco/refcoco_unc_val.jsonl": ("refcoco", "val", "img_path", "expression", "bbox"),
    "visual_cot/vsr_cot_train.jsonl": ("visual-cot", "train", "image", "question", "bboxs"),
    "visual_cot/benchmark_det_gqa.jsonl": ("visual-cot", "val", "img_path", "expression", "bbox"),
}
# Read off the files by hand, so that the table below cannot be wrong in the same way everywhere.
KNOWN = {
    ("refcoco/refcoco_unc_val.jsonl", 0): [[468.3, 0.91, 640.0, 117.03]],
    ("visual_cot/vsr_cot_train.jsonl", 0): [[34.41, 379.87, 608.34, 615.23]],
    ("visual_cot/vsr_cot_train.jsonl", 1): [[0.0, 0.88, 640.0, 422.54]],
    ("visual_cot/benchmark_det_gqa.jsonl", 0): [[217, 343, 242, 393]],
    ("visual_cot/benchmark_det_gqa.jsonl", 2): [[117, 361, 285, 482]],
}


def expected_boxes(record: dict, field: str) -> list[list[float]]:
    """The record's boxes, pixels xyxy, cut at the border of the picture."""
    boxes = record[field] if isinstance(record[field][0], list) else [record[field]]
    w, h = record["width"], record["height"]
    return [[max(b[0], 0), max(b[1], 0), min(b[2], w), min(b[3], h)] for b in boxes]


@pytest.mark.parametrize("file", FILES)
def test_every_row_has_the_boxes_of_its_record(bench, file: str):
    source, split, image, question, boxes = FILES[file]
    records = [json.loads(line) for line in (SAMPLES / file).read_text().splitlines()]
    for record in records:
        if not (bench.images / record[image]).exists():
            bench.picture(record[image], (record["width"], record["height"]))
    option = "--refs" if source == "refcoco" else "--questions"
    result = bench.prepare(source, option, SAMPLES / file, "--images", bench.images, "--split", split)
    assert result.exit_code == 0, result.output
    rows = bench.rows()
    assert len(rows) == len(records) == {"refcoco": 60}.get(source, 60 if boxes == "bbox" else 40)
    for index, (row, record) in enumerate(zip(rows, records, strict=True)):
        expected = expected_boxes(record, boxes)
        if (file, index) in KNOWN:
            assert expected == [pytest.approx(box) for box in KNOWN[file, index]]
        assert [region["box"] for region in row["regions"]] == expected
        assert {region["role"] for region in row["regions"]} == {"answer"}
        assert record[question] in row["question"]
        assert row["images"][0]["bytes"] == (bench.images / record[image]).read_bytes()
        assert row["image_sizes"] == [[record["width"], record["height"]]]
        answer = record.get("answer") or str([round(value) for value in record["bbox"]])
        assert (row["solution"], row["split"]) == (answer, split)


def test_coco_sample_counts_its_person_with_the_polygon(bench):
    """One real annotation: 43 % of a person's box is the person, so the mask must weigh less than the box."""
    bench.picture("000000000785.jpg", (640, 425))
    file = SAMPLES / "coco" / "person_keypoints_val2017.json"
    assert bench.prepare("coco", "--instances", file, "--images", bench.images).exit_code == 0
    (row,) = bench.rows()
    (annotation,) = json.loads(file.read_text())["annotations"]
    x, y, w, h = annotation["bbox"]
    assert (row["question"], row["solution"]) == ("How many people are in the image?", "1")
    (region,) = row["regions"]
    assert region["box"] == pytest.approx([x, y, x + w, y + h])
    from pycocotools import mask as coco

    area = int(coco.area({"size": [425, 640], "counts": region["rle"].encode()}))
    assert area == pytest.approx(annotation["area"], rel=0.01)
    assert row["license"] == "CC-BY-4.0, image: Attribution License"
