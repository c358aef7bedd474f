"""People's own lines: every way to say where, and every way to say it wrongly."""

import pytest
from PIL import Image

LINE = {"image": "a.jpg", "question": "What is this?", "answer": "cake"}
SQUARE = [40, 20, 80, 20, 80, 60, 40, 60]


def prepare(bench, *records, more=(), out="out"):
    bench.picture("a.jpg")
    return bench.prepare("jsonl", "--questions", bench.lines(*records), "--images", bench.images, *more, out=out)


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


def test_lines_with_a_box_a_mask_and_no_region(bench):
    lines = region(box=[20, 30, 90, 99]), region(polygons=[[5, 5, 40, 5, 20, 50]]), {**LINE, "answer": ["no", "not"]}
    assert prepare(bench, *lines).exit_code == 0
    boxed, masked, without = bench.rows()
    assert boxed["regions"] == [
        {"image": 0, "box": [20, 30, 90, 99], "rle": None, "role": "answer", "weight": 1.0, "label": ""}
    ]
    assert masked["regions"][0]["box"] == pytest.approx([5, 5, 40, 50], abs=1)
    assert masked["regions"][0]["rle"]
    assert (without["has_region"], without["solution"], without["answers"]) == (False, "no", ["no", "not"])
    assert [row["id"] for row in bench.rows()] == [f"questions.jsonl:{line}" for line in (1, 2, 3)]


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
    ("record", "reason", "detail"),
    [
        (region(box=[40, 20, 30, 60]), "reversed_box", "was it [x, y, width, height]?"),
        (region(box=[40, 20, 40, 60]), "zero_area_box", ""),
        (region(box=[0.1, 0.2, 0.5, 0.6]), "box_looks_normalised", "pixels are expected"),
        (region(box_normalised=[10, 20, 50, 60]), "box_looks_like_pixels", ""),
        (region(box=[400, 20, 480, 60]), "box_outside_image", ""),
        (region(box=[40, 20, "80", 60]), "nan_box", ""),
        (region(box=[40, 20, 1e400, 60]), "nan_box", ""),
        (region(box_xywh=[40, 20, -5, 60]), "reversed_box", ""),
        (region(box_xywh=[40, 20, 0, 60]), "zero_area_box", ""),
        (region(box=[40, 20, 80]), "malformed_record", "four numbers"),
        (region(box={"x": 1}), "malformed_record", "four numbers"),
        (region(polygons=[[1, 1, 5, 5]]), "bad_mask", "three points"),
        (region(polygons=[SQUARE], box=[40, 20, 40, 40]), "zero_area_box", ""),
        (region(polygons=[SQUARE], box=[40, 20, 120, 80]), "box_and_mask_differ", ""),
        (region(polygons=[SQUARE], rle={}), "malformed_record", "found rle, polygons"),
        (region(rle="abc"), "bad_mask", "size"),
        (region(rle={"size": [320, 200], "counts": [64000]}), "mask_size_differs", ""),
        (region(mask="m.png"), "missing_mask", "--masks"),
        (region(), "malformed_record", "found nothing"),
        (region(bbox=[1, 2, 3, 4]), "unknown_field", "['bbox']"),
        (region(box=[40, 20, 80, 60], role="anchor"), "malformed_record", "role"),
        (region(box=[40, 20, 80, 60], weight=0), "malformed_record", "weight"),
        (region(box=[40, 20, 80, 60], weight=float("nan")), "malformed_record", "weight"),
        (region(box=[40, 20, 80, 60], image=1), "malformed_record", "image 1"),
        (region(box=[40, 20, 80, 60], image=-1), "malformed_record", "image -1"),
        ({**LINE, "region": []}, "unknown_field", "['region']"),
        ({**LINE, "image": None}, "malformed_record", "image"),
        ({**LINE, "answer": []}, "no_answer", ""),
        ({**LINE, "answer": None}, "no_answer", ""),
        ({**LINE, "answer": ["a", 1]}, "malformed_record", ""),
        ({**LINE, "image": "../images/a.jpg"}, "path_outside_image_dir", ""),
        ({**region(box=[4, 2, 8, 6]), "width": 100, "height": 100}, "image_size_differs", ""),
        ("[1, 2", "malformed_record", "JSON"),
        ("\x00\xff", "malformed_record", "JSON"),
        ("[]", "malformed_record", "an object"),
    ],
)  # fmt: skip
def test_bad_lines_are_named_and_cost_no_other(bench, record, reason: str, detail: str):
    result = prepare(bench, LINE, record, LINE)
    assert result.exit_code == 0, result.output
    assert bench.summary()["rejected_by_reason"] == {reason: 1}
    (reject,) = bench.rejects()
    assert reject["id"] == "questions.jsonl:2"
    assert detail in reject["detail"]


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
    from sayo.geometry import masks

    assert list(masks.encode(row["regions"][0]["rle"], (200, 320)).box) == expected


def test_a_line_without_end_is_one_reject(bench, monkeypatch):
    from data_prep import json_records

    monkeypatch.setattr(json_records, "_LONGEST_LINE", 1000)
    prepare(bench, LINE, "x" * 5000, LINE)
    assert bench.summary()["rejected_by_reason"] == {"malformed_record": 1}
    assert bench.summary()["kept"] == 2
