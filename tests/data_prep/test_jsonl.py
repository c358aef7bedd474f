"""People's own lines: every way to say where, and every way to say it wrongly."""

import pytest
from PIL import Image

from data_prep import json_records
from sayo.geometry import masks
from tests.data_prep import source_files

LINE = {"image": "a.jpg", "question": "What is this?", "answer": "cake"}
SQUARE = [40, 20, 80, 20, 80, 60, 40, 60]


def prepare(bench, *records, more=()):
    return source_files.prepare(bench, "jsonl", records, *more)


def region(**fields):
    return {**LINE, "regions": [fields]}


def mask_folder(bench):
    """A square mask as a label picture and as a cutout, and files that are no mask."""
    folder = bench.root / "masks"
    folder.mkdir()
    label = Image.new("L", (320, 200))
    label.paste(1, (40, 20, 80, 60))  # not 255: label pictures are nearly black
    label.save(folder / "mask.png")
    cutout = Image.new("RGBA", (320, 200), (255, 255, 255, 0))
    cutout.paste((255, 255, 255, 255), (40, 20, 80, 60))
    cutout.save(folder / "cutout.png")
    (folder / "text.png").write_text("no picture")
    Image.new("L", (320, 200)).save(folder / "black.png")
    Image.new("L", (32, 20), 255).save(folder / "small.png")
    return folder


@pytest.mark.parametrize(
    "place",
    [
        {"box": [40, 20, 80, 60]},
        {"box_xywh": [40, 20, 40, 40]},
        {"box_normalised": [40 / 320, 20 / 200, 80 / 320, 60 / 200]},
        {"polygons": [SQUARE]},
        {"rle": {"size": [200, 320], "counts": [40 * 200 + 20, *[40, 160] * 39, 40, 48140]}},
        {"mask": "mask.png"},
        {"mask": "cutout.png"},  # transparent pixels are no part of it
        {"box": [40.4, 20, 80, 60.7], "polygons": [SQUARE]},
    ],
)
def test_every_place_means_the_same_box(bench, place: dict):
    result = prepare(bench, region(**place), more=["--masks", mask_folder(bench)])
    assert result.exit_code == 0, result.output
    (row,) = bench.rows()
    assert row["regions"][0]["box"] == pytest.approx([40, 20, 80, 60], abs=1)
    assert (row["regions"][0]["rle"] is None) == (not {"polygons", "rle", "mask"} & set(place))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("../m.png", "path_outside_mask_dir"), ("none.png", "missing_mask"), ("text.png", "unreadable_mask"),
     ("black.png", "empty_mask"), ("small.png", "mask_size_differs")],
)  # fmt: skip
def test_bad_mask_files_are_named(bench, name: str, reason: str):
    prepare(bench, LINE, region(mask=name), more=["--masks", mask_folder(bench)])
    assert bench.summary()["rejected_by_reason"] == {reason: 1}


def test_two_images_with_a_region_in_the_second(bench, processor_dir):
    bench.picture("b.jpg", (64, 64))
    record = {**LINE, "images": ["a.jpg", "b.jpg"], "regions": []}
    for box, weight in (([0, 0, 32, 32], 0.2), ([32, 32, 64, 64], 0.8)):
        record["regions"].append({"box": box, "image": 1, "weight": weight})
    del record["image"]
    assert prepare(bench, record, more=["--processor", processor_dir]).exit_code == 0
    (row,) = bench.rows()
    assert row["image_sizes"] == [[320, 200], [64, 64]]
    assert row["num_visual_tokens"] == [60, 4]
    assert (row["region_tokens"], row["region_weights"]) == ([60, 63], [0.25, 1])  # the heaviest weighs 1


@pytest.mark.parametrize("orientation", [6, 8])
def test_mask_on_the_stored_pixels_of_a_turned_photo(bench, orientation: int):
    """`width` and `height` say that the mask was drawn before the camera's rotation was applied."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    bench.picture("turned.jpg", (320, 200), exif=exif)
    record = {**region(polygons=[SQUARE]), "image": "turned.jpg", "width": 320, "height": 200}
    assert prepare(bench, record).exit_code == 0
    (row,) = bench.rows()
    assert row["image_sizes"] == [[200, 320]]
    expected = {6: [200 - 60, 40, 200 - 20, 80], 8: [20, 320 - 80, 60, 320 - 40]}[orientation]
    assert row["regions"][0]["box"] == expected
    assert list(masks.encode(row["regions"][0]["rle"], (200, 320)).box) == expected


def test_a_line_without_end_is_one_reject(bench, monkeypatch):
    monkeypatch.setattr(json_records, "_LONGEST_LINE", 1000)
    prepare(bench, LINE, "x" * 5000, LINE)
    assert bench.summary()["rejected_by_reason"] == {"malformed_record": 1}
    assert bench.summary()["kept"] == 2
