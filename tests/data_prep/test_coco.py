"""COCO instances -> questions: templates, balance, crowds, and annotations that contradict themselves."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 3, "name": "car", "supercategory": "vehicle"},
    {"id": 6, "name": "bus", "supercategory": "vehicle"},
    {"id": 17, "name": "cat", "supercategory": "animal"},
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 53, "name": "apple", "supercategory": "food"},
]


class Coco:
    """An instances file under construction; images are 400 x 300."""

    def __init__(self, bench):
        self.bench = bench
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def image(self, image_id: int) -> int:
        name = f"{image_id:012d}.jpg"
        self.bench.picture(name, (400, 300))
        self.images.append({"id": image_id, "file_name": name, "width": 400, "height": 300, "license": 4})
        return image_id

    def add(self, image: int, category: int, x: float, y: float, w: float, h: float, **more: Any) -> int:
        polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        self.annotations.append(
            {"id": len(self.annotations) + 1, "image_id": image, "category_id": category, "bbox": [x, y, w, h],
             "area": w * h, "iscrowd": 0, "segmentation": polygon, **more}
        )  # fmt: skip
        return len(self.annotations)

    def seven_scenes(self) -> None:
        for image_id in range(1, 8):
            self.image(image_id)
            for number, category in enumerate((1, 3, 17, 18)):
                self.add(image_id, category, 5 + 98 * number, 20 + 40 * number, 40 + 10 * number, 60)

    def prepare(self, *more: Any, out: str = "out"):
        licenses = [{"id": 4, "name": "Attribution License", "url": ""}]
        content = {"info": {}, "licenses": licenses, "images": self.images, "annotations": self.annotations,
                   "categories": CATEGORIES}  # fmt: skip
        file = self.bench.json(content, "instances.json")
        return self.bench.prepare("coco", "--instances", file, "--images", self.bench.images, *more, out=out)

    def asked(self, out: str = "out") -> dict[str, str]:
        """question -> answer."""
        return {row["question"]: row["solution"] for row in self.bench.rows(out)}


@pytest.fixture
def coco_files(bench) -> Coco:
    return Coco(bench)


def regions(row: dict) -> list[tuple]:
    return [(region["role"], *region["box"]) for region in row["regions"]]


def test_every_template_on_one_scene(coco_files):
    """A dog (100 x 100) at the left, an apple (40 x 40) at the right, higher up: worked out by hand."""
    coco_files.image(1)
    dog = ("answer", 20, 180, 120, 280)
    apple = ("answer", 300, 40, 340, 80)
    coco_files.add(1, 18, 20, 180, 100, 100)
    coco_files.add(1, 53, 300, 40, 40, 40)
    assert coco_files.prepare("--per-image", "100").exit_code == 0
    rows = {row["question"]: row for row in coco_files.bench.rows()}
    expected = {
        "How many dogs are in the image?": ("1", [dog]),
        "How many apples are in the image?": ("1", [apple]),
        "What kind of animal is in the image?": ("dog", [dog]),
        "What kind of food is in the image?": ("apple", [apple]),
        "Is the dog on the left or on the right side of the image?": ("left", [dog]),
        "Is the apple on the left or on the right side of the image?": ("right", [apple]),
    }
    for question, (answer, places) in expected.items():
        assert (rows[question]["solution"], regions(rows[question])) == (answer, places)
    relations = {
        "Is the dog to the left or to the right of the apple in the image?": ("left", [dog, ("evidence", *apple[1:])]),
        "Is the apple to the left or to the right of the dog in the image?": (
            "right",
            [apple, ("evidence", *dog[1:])],
        ),
        "Is the dog above or below the apple in the image?": ("below", [dog, ("evidence", *apple[1:])]),
        "Is the apple above or below the dog in the image?": ("above", [apple, ("evidence", *dog[1:])]),
        "Which takes up more of the image, the dog or the apple?": ("dog", [dog, ("evidence", *apple[1:])]),
        "Which takes up more of the image, the apple or the dog?": ("dog", [dog, ("evidence", *apple[1:])]),
    }
    found = {question: row for question, row in rows.items() if question in relations}
    assert len(found) == 3  # one of each pair: the hash decides who is asked for
    for question, row in found.items():
        assert (row["solution"], regions(row)) == relations[question]
        assert [region["weight"] for region in row["regions"]] == [1.0, 0.5]
    assert len(rows) == 9  # no yes/no: of one image, no class has both


def test_as_many_no_as_yes_for_each_class(coco_files):
    for image_id in range(1, 41):
        coco_files.image(image_id)
        coco_files.add(image_id, (17, 18)[image_id % 4 == 0], 50, 50, 100, 100)  # 30 cats, 10 dogs
        coco_files.add(image_id, 1, 250, 50, 100, 100)
    assert coco_files.prepare().exit_code == 0
    asked = Counter(
        (row["question"], row["solution"]) for row in coco_files.bench.rows() if row["question_type"] == "exist"
    )
    for animal in ("cat", "dog"):
        yes, no = (asked[f"Is there a {animal} in the image?", answer] for answer in ("yes", "no"))
        assert yes == no > 0
    assert not any("person" in question for question, _ in asked)  # has no sibling: its answer would always be yes
    for row in coco_files.bench.rows():
        if row["question_type"] == "exist":
            assert row["has_region"] == (row["solution"] == "yes")


def test_no_number_of_a_class_is_more_frequent_than_the_second(coco_files):
    for image_id in range(1, 31):
        coco_files.image(image_id)
        for number in range(1 if image_id <= 20 else 2 if image_id <= 26 else 3):
            coco_files.add(image_id, 18, 10 + 110 * number, 50, 100, 100)
    assert coco_files.prepare("--per-image", "20").exit_code == 0
    counts = Counter(row["solution"] for row in coco_files.bench.rows() if row["question_type"] == "count")
    assert counts == {"1": 6, "2": 6, "3": 4}


def test_a_crowd_is_never_counted_denied_or_referred_to(coco_files):
    image = coco_files.image(1)
    coco_files.add(image, 18, 20, 20, 100, 100)
    coco_files.add(image, 17, 200, 150, 50, 50)
    coco_files.add(image, 3, 280, 20, 60, 60)
    runs = {"size": [300, 400], "counts": [0, 300 * 100, 300 * 300]}
    coco_files.add(image, 18, 0, 0, 100, 300, iscrowd=1, segmentation=runs)
    coco_files.add(image, 6, 0, 0, 100, 300, iscrowd=1, segmentation=runs)
    assert coco_files.prepare("--per-image", "100").exit_code == 0
    asked = " ".join(coco_files.asked())
    assert "dog" not in asked
    assert "bus" not in asked
    assert "What kind of" not in asked  # two animals, two vehicles
    assert {"cat", "car"} <= set(asked.replace("?", "").split())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"bbox": [20, 20, 120, 120]}, "box_and_mask_differ"),  # xyxy where xywh belongs
        (
            {"bbox": [0.05, 0.07, 0.25, 0.33], "segmentation": []},
            None,
        ),  # a real box of a quarter pixel: too small to ask
        ({"bbox": [0.05, 0.07, 0.25, 0.33]}, "box_and_mask_differ"),  # normalised
        ({"bbox": [20, 20, 0, 100]}, "zero_area_box"),
        ({"bbox": [120, 120, -100, -100]}, "reversed_box"),
        ({"bbox": [500, 20, 100, 100]}, "box_outside_image"),
        ({"bbox": [20, float("nan"), 100, 100]}, "nan_box"),
        ({"bbox": None}, "malformed_record"),
        ({"segmentation": [[20, 20, 120, 120]]}, "bad_mask"),
        ({"segmentation": {"size": [400, 300], "counts": [120000]}}, "mask_size_differs"),
        ({"category_id": 99}, "unknown_category"),
        ({"image_id": 7}, "unknown_image"),
        ({"id": None}, "malformed_record"),
        ({"id": 2}, "duplicate_id"),
    ],
)
def test_a_bad_annotation_is_counted_and_its_class_not_asked_for(coco_files, spoil: dict, reason: str | None):
    image = coco_files.image(1)
    coco_files.add(image, 3, 250, 100, 100, 100)
    coco_files.add(image, 17, 150, 150, 80, 80)
    coco_files.add(image, 18, 20, 20, 100, 100, **spoil)
    assert coco_files.prepare("--per-image", "100").exit_code == 0
    summary = coco_files.bench.summary()
    assert summary["rejected_by_reason"] == ({reason: 1} if reason else {})
    asked = " ".join(coco_files.asked())
    assert "dogs" not in asked
    assert "the dog " not in asked
    assert "the cat" in asked


@pytest.mark.parametrize("encoding", ["polygons", "uncompressed", "compressed"])
def test_all_mask_encodings_give_the_same_tokens(coco_files, processor_dir, encoding: str):
    """The dog is the lower triangle of its box: tokens above the diagonal must not count."""
    mask = np.zeros((300, 400), np.uint8)
    for row in range(128):
        mask[64 + row, 32 : 32 + row + 1] = 1
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = {"size": [300, 400], "counts": np.diff([0, *edges, flat.size]).tolist()}
    segmentation = {
        "polygons": [[32, 64, 160, 192, 32, 192]],
        "uncompressed": runs,
        "compressed": {"size": [300, 400], "counts": coco.encode(np.asfortranarray(mask))["counts"].decode()},
    }[encoding]
    coco_files.image(1)
    coco_files.add(1, 18, 32, 64, 128, 128, segmentation=segmentation, area=8192)
    assert coco_files.prepare("--processor", processor_dir).exit_code == 0
    row = next(row for row in coco_files.bench.rows() if row["question_type"] == "count")
    # 400 x 300 is 12 x 9 cells of 33.3 pixels; cell (column 4, row 2) is the upper right corner of the box
    weights = dict(zip(row["region_tokens"], row["region_weights"], strict=True))
    assert 2 * 12 + 4 not in weights
    assert weights[4 * 12 + 1] == pytest.approx(1, abs=0.02)
    assert weights[3 * 12 + 2] == pytest.approx(
        0.55, abs=0.02
    )  # just above half: the diagonal passes 1.3 pixels off its corner
    covered = sum(weights.values()) * (400 / 12) * (300 / 9)
    assert covered == pytest.approx(mask.sum(), rel=0.03)


def test_same_seed_same_questions_whatever_the_order_of_the_file(coco_files):
    coco_files.seven_scenes()
    assert coco_files.prepare(out="first").exit_code == 0
    coco_files.images.reverse()
    coco_files.annotations.reverse()
    assert coco_files.prepare(out="second").exit_code == 0
    assert coco_files.prepare("--seed", "1", out="third").exit_code == 0
    first, second, third = ([(row["id"], row["solution"]) for row in coco_files.bench.rows(out)]
                            for out in ("first", "second", "third"))  # fmt: skip
    assert first == second
    assert first != third
    assert max(Counter(one.split("-")[0] for one, _ in first).values()) <= 6


def test_any_number_of_processes_asks_the_same(coco_files, monkeypatch):
    from data_prep.sources import coco as source

    coco_files.seven_scenes()
    coco_files.add(3, 6, 500, 20, 40, 40)
    assert coco_files.prepare(out="one").exit_code == 0
    monkeypatch.setattr(source, "_SCENES_PER_JOB", 2)
    assert coco_files.prepare("--num-proc", "2", out="two").exit_code == 0
    none = coco_files.prepare("--num-proc", "0", out="none")
    assert none.exit_code == 2 and "--num-proc: 0 must be at least 1" in none.output
    one, two = (coco_files.bench.rows(out) for out in ("one", "two"))
    assert one == two
    assert [coco_files.bench.summary(out)["rejected_by_reason"] for out in ("one", "two")] == [
        {"box_outside_image": 1}
    ] * 2


def test_a_mask_without_a_pixel_is_a_rejected_row(coco_files):
    image = coco_files.image(1)
    coco_files.add(image, 1, 20, 20, 60, 60)
    coco_files.add(image, 17, 200, 200, 2, 2, segmentation=[[201, 201, 201.1, 201, 201, 201.1]])
    result = coco_files.prepare("--least-area", "1", "--per-image", "20")
    assert result.exit_code == 0, result.output
    summary = coco_files.bench.summary()
    assert set(summary["rejected_by_reason"]) == {"empty_mask"}
    rows = coco_files.bench.rows()
    assert rows and not any("cat" in row["question"] for row in rows)


def test_plain_words():
    from data_prep.sources.english import is_the, is_there, plural

    words = ["person", "bus", "knife", "wine glass", "sheep", "mouse", "toothbrush", "teddy bear", "berry", "skis"]
    assert [plural(word) for word in words] == [
        "people", "buses", "knives", "wine glasses", "sheep", "mice", "toothbrushes", "teddy bears", "berries", "skis",
    ]  # fmt: skip
    assert is_there("apple") == "Is there an apple"
    assert is_there("skis") == "Are there any skis"
    assert is_the("skis") == "Are the skis"


@pytest.mark.parametrize("content", ['{"images": [', "[]", '{"images": {}}', '{"annotations": [1]}'])
def test_broken_files_are_one_line(bench, content: str):
    file = bench.root / "instances.json"
    file.write_text(content)
    result = bench.prepare("coco", "--instances", file, "--images", bench.images)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_missing_file_says_where_to_get_it(bench):
    result = bench.prepare("coco", "--instances", bench.root / "none.json", "--images", bench.images)
    assert result.exit_code == 2
    assert "https://cocodataset.org/#download" in result.output


def test_toy_world_has_every_encoding(bench):
    """The toy world's own COCO files: rings as both RLE forms, discs as polygons, dots as a crowd."""
    from sayo.toyworld import coco_files as toy
    from sayo.toyworld import gqa_files

    list(gqa_files.write_gqa(bench.root / "toy", 12, 0))
    toy.write_coco(bench.root / "toy", 12, 0)
    (file, *_) = sorted((bench.root / "toy" / "annotations").glob("instances_train*.json"))
    result = bench.prepare("coco", "--instances", file, "--images", bench.root / "toy" / "images", "--least-area", 50)
    assert result.exit_code == 0, result.output
    summary = bench.summary()
    assert summary["rejected"] == 0
    assert summary["with_mask"] == summary["with_region"] > 0
    kinds = {type(one["segmentation"]).__name__ for one in json.loads(file.read_text())["annotations"]}
    assert kinds == {"list", "dict"}
