"""ReFocus_Data: images and dicts of lists inside parquet files."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

LISTS = pa.struct([(name, pa.list_(pa.float64())) for name in ("x1", "y1", "x2", "y2")])
SCHEMA = pa.schema([
    ("id", pa.string()), ("question", pa.string()), ("answer", pa.string()),
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ("edited_image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ("thoughts", pa.list_(pa.string())), ("focus_areas_bbox", LISTS), ("source", pa.string()),
])  # fmt: skip


def png(size: tuple[int, int] = (200, 100)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (9, 99, 200)).save(data, "PNG")
    return data.getvalue()


def row(number: int, boxes: dict | None, **more) -> dict:
    return {"id": f"r{number}", "question": "How many bars?", "answer": "2", "thoughts": ["t"], "edited_image": None,
            "image": {"bytes": png(), "path": f"{number}.png"}, "focus_areas_bbox": boxes, "source": "chartqa_h_bar",
            **more}  # fmt: skip


def lists(*boxes) -> dict:
    return {name: [box[index] for box in boxes] for index, name in enumerate(("x1", "y1", "x2", "y2"))}


def prepare(bench, *rows: dict, more=()):
    (bench.root / "data").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), bench.root / "data" / "train-0.parquet")
    return bench.prepare("refocus", "--files", bench.root / "data", *more)


def test_every_focus_area_is_a_region(bench, processor_dir):
    boxes = [(0, 10, 50, 40), (60, 10, 90.5, 40), (100, 10, 130, 400)]
    assert (
        prepare(
            bench, row(0, lists(*boxes)), row(1, lists()), row(2, None), more=["--processor", processor_dir]
        ).exit_code
        == 0
    )
    first, second, third = bench.rows()
    assert [region["box"] for region in first["regions"]] == [[0, 10, 50, 40], [60, 10, 90.5, 40], [100, 10, 130, 100]]
    assert first["images"] == [{"bytes": png(), "path": "0.png"}]
    assert (first["question_type"], first["license"]) == ("chartqa_h_bar", "Apache-2.0")
    assert first["region_tokens"]
    assert (second["has_region"], third["has_region"]) == (False, False)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(9, {**lists((0, 10, 50, 40)), "x1": []}), "malformed_record"),
        (row(9, lists((50, 10, 0, 40))), "reversed_box"),
        (row(9, lists((0, 10, 0, 40))), "zero_area_box"),
        (row(9, lists((0, float("nan"), 10, 40))), "nan_box"),
        (row(9, lists((0.1, 0.2, 0.3, 0.4))), "box_looks_normalised"),
        (row(9, lists((300, 10, 350, 40))), "box_outside_image"),
        (row(9, None, image=None), "malformed_record"),
        (row(9, None, image={"bytes": None, "path": "../../etc/passwd"}), "missing_image"),
        (row(9, None, image={"bytes": b"text", "path": "x"}), "unreadable_image"),
        (row(9, None, image={"bytes": png()[:-20], "path": "x"}), "truncated_image"),
        (row(9, None, answer=None), "no_answer"),
        (row(0, None), "duplicate_id"),
    ],
)
def test_bad_rows_are_named(bench, bad: dict, reason: str):
    assert prepare(bench, row(0, lists((0, 10, 50, 40))), bad).exit_code == 0
    assert bench.summary()["rejected_by_reason"] == {reason: 1}


def test_other_parquet_files_are_named(bench):
    (bench.root / "data").mkdir()
    file = bench.root / "data" / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), file)
    result = bench.prepare("refocus", "--files", file)
    assert (result.exit_code, "lacks the columns id, question" in result.output) == (2, True)
    file.write_text("no parquet")
    result = bench.prepare("refocus", "--files", file)
    assert (result.exit_code, "is not a parquet file" in result.output) == (2, True)
    result = bench.prepare("refocus", "--files", bench.root / "none")
    assert (result.exit_code, "huggingface.co/datasets/ReFocus/ReFocus_Data" in result.output) == (2, True)
    assert prepare(bench, row(0, None), more=["--link-images"]).exit_code == 2
