"""COCO instances -> questions: templates, balance, crowds, and annotations that contradict themselves."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pycocotools import mask as coco

from data_prep.sources import coco as source
from data_prep.sources.coco_words import is_the, is_there, plural, spoken

CASES = yaml.safe_load(Path(__file__).with_name("coco.yaml").read_text())


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

    def add(self, image: int, category: int, x: float, y: float, w: float, h: float, **more: Any) -> None:
        polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        self.annotations.append(
            {"id": len(self.annotations) + 1, "image_id": image, "category_id": category, "bbox": [x, y, w, h],
             "area": w * h, "iscrowd": 0, "segmentation": polygon, **more}
        )  # fmt: skip

    def seven_scenes(self) -> None:
        for image_id in range(1, 8):
            self.image(image_id)
            for number, category in enumerate((1, 3, 17, 18)):
                self.add(image_id, category, 5 + 98 * number, 20 + 40 * number, 40 + 10 * number, 60)

    def prepare(self, *more: Any, out: str = "out") -> None:
        content = {**CASES["file"], "images": self.images, "annotations": self.annotations}
        file = self.bench.json(content, "instances.json")
        result = self.bench.prepare("coco", "--instances", file, "--images", self.bench.images, *more, out=out)
        assert result.exit_code == 0, result.output

    def fails(self, *more: Any) -> str:
        """What `prepare` says where it must fail."""
        with pytest.raises(AssertionError) as failure:
            self.prepare(*more)
        return " ".join(str(failure.value).split())

    def asked(self) -> str:
        return " ".join(row["question"] for row in self.bench.rows())


@pytest.fixture
def coco_files(bench) -> Coco:
    return Coco(bench)


def test_every_template_on_one_scene(coco_files):
    """A dog (100 x 100) at the left, an apple (40 x 40) at the right, higher up: worked out by hand."""
    coco_files.image(1)
    boxes = {"dog": (20, 180, 120, 280), "apple": (300, 40, 340, 80)}
    coco_files.add(1, 18, 20, 180, 100, 100)
    coco_files.add(1, 53, 300, 40, 40, 40)
    coco_files.prepare("--per-image", "100")
    rows = {
        row["question"]: (row["solution"], [(r["role"], *r["box"], r["weight"]) for r in row["regions"]])
        for row in coco_files.bench.rows()
    }
    assert len(rows) == 7  # of each pair of the last six one, as the hash decides; no yes/no: no class has both
    for question, (answer, *things) in CASES["dog and apple"].items():
        roles = [("answer", *boxes[things[0]], 1.0), *(("evidence", *boxes[name], 0.5) for name in things[1:])]
        assert rows.pop(question, (answer, roles)) == (answer, roles)
    assert not rows


def test_as_many_no_as_yes_for_each_class(coco_files):
    for image_id in range(1, 41):
        coco_files.image(image_id)
        coco_files.add(image_id, (17, 18)[image_id % 4 == 0], 50, 50, 100, 100)  # 30 cats, 10 dogs
        coco_files.add(image_id, 1, 250, 50, 100, 100)
    coco_files.prepare()
    rows = [row for row in coco_files.bench.rows() if row["question_type"] == "exist"]
    asked = Counter((row["question"], row["solution"]) for row in rows)
    for animal in ("cat", "dog"):
        yes, no = (asked[f"Is there a {animal} in the image?", answer] for answer in ("yes", "no"))
        assert yes == no > 0
    assert not any("person" in question for question, _ in asked)  # has no sibling: its answer would always be yes
    assert all(row["has_region"] == (row["solution"] == "yes") for row in rows)


def test_no_number_of_a_class_is_more_frequent_than_the_third(coco_files):
    for image_id in range(1, 31):
        coco_files.image(image_id)
        for number in range(1 if image_id <= 20 else 2 if image_id <= 26 else 3):
            coco_files.add(image_id, 18, 10 + 110 * number, 50, 100, 100)
    coco_files.prepare("--per-image", "20")
    counts = Counter(row["solution"] for row in coco_files.bench.rows() if row["question_type"] == "count")
    assert counts == {"1": 4, "2": 4, "3": 4}


def test_a_third_of_the_questions_at_most_are_yes_or_no(coco_files):
    for image_id in range(1, 61):
        coco_files.image(image_id)
        coco_files.add(image_id, (17, 18)[image_id % 2], 50, 50, 100, 100)
        coco_files.add(image_id, (3, 6)[image_id // 2 % 2], 170, 50, 100, 100)
    coco_files.prepare("--per-image", "4")
    solutions = Counter(row["solution"] for row in coco_files.bench.rows())
    assert solutions["yes"] == solutions["no"] > 10
    assert 0.3 <= (solutions["yes"] + solutions["no"]) / solutions.total() <= 1 / 3


def test_only_kinds_that_coco_covers_are_asked_and_only_what_boxes_count_is_counted(coco_files):
    coco_files.seven_scenes()
    for image in range(1, 8):
        coco_files.add(image, (53, 62, 74, 81)[image % 4], 300, 200, 60, 60)  # the sink: a mirror is near
    coco_files.prepare("--per-image", "100")
    rows = coco_files.bench.rows()
    asked = Counter(row["question"] for row in rows)
    assert not any(f"What kind of {kind}" in question for question in asked for kind in ("furniture", "food"))
    assert not any("apples" in question or "the mouse" in question for question in asked)
    counted = {row["images"][0]["path"] for row in rows if row["question_type"] == "count"}
    assert counted and not counted & {f"{image:012d}.jpg" for image in (3, 7)}
    said = {row["question"]: row["answers"] for row in rows}
    assert any("the computer mouse" in question for question in said)
    sides = [answers for question, answers in said.items() if "left or on the right side" in question]
    assert sides and all(f"on the {answers[0]}" in answers for answers in sides)


def test_a_crowd_is_never_counted_denied_or_referred_to(coco_files):
    image = coco_files.image(1)
    coco_files.add(image, 18, 20, 20, 100, 100)
    coco_files.add(image, 17, 200, 150, 50, 50)
    coco_files.add(image, 3, 280, 20, 60, 60)
    runs = {"size": [300, 400], "counts": [0, 300 * 100, 300 * 300]}
    for category in (18, 6):
        coco_files.add(image, category, 0, 0, 100, 300, iscrowd=1, segmentation=runs)
    coco_files.prepare("--per-image", "100")
    asked = coco_files.asked()
    assert not any(word in asked for word in ("dog", "bus", "What kind of"))  # two animals, two vehicles
    assert "the cat" in asked and "the car" in asked


@pytest.mark.parametrize(("spoil", "reason"), CASES["spoilt"])
def test_a_bad_annotation_is_counted_and_its_class_not_asked_for(coco_files, spoil: dict, reason: str | None):
    image = coco_files.image(1)
    coco_files.add(image, 3, 250, 100, 100, 100)
    coco_files.add(image, 17, 150, 150, 80, 80)
    coco_files.add(image, 18, 20, 20, 100, 100, **spoil)
    coco_files.prepare("--per-image", "100")
    assert coco_files.bench.summary()["rejected_by_reason"] == ({reason: 1} if reason else {})
    asked = coco_files.asked()
    assert "dogs" not in asked and "the dog " not in asked and "the cat" in asked


@pytest.mark.parametrize("encoding", ["polygons", "uncompressed", "compressed"])
def test_all_mask_encodings_give_the_same_mask(coco_files, encoding: str):
    """The dog is the lower triangle of its box."""
    mask = np.zeros((300, 400), np.uint8)
    for row in range(128):
        mask[64 + row, 32 : 32 + row + 1] = 1
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    segmentation = {
        "polygons": [[32, 64, 160, 192, 32, 192]],
        "uncompressed": {"size": [300, 400], "counts": np.diff([0, *edges, flat.size]).tolist()},
        "compressed": {"size": [300, 400], "counts": coco.encode(np.asfortranarray(mask))["counts"].decode()},
    }[encoding]
    coco_files.image(1)
    coco_files.add(1, 18, 32, 64, 128, 128, segmentation=segmentation, area=8192)
    coco_files.prepare()
    (region,) = coco_files.bench.rows()[0]["regions"]
    stored = coco.decode({"size": [300, 400], "counts": region["rle"].encode()})
    assert (stored != mask).sum() <= (128 if encoding == "polygons" else 0)  # along the diagonal


def test_same_seed_same_questions_whatever_the_order_of_the_file(coco_files):
    coco_files.seven_scenes()
    coco_files.prepare(out="first")
    coco_files.images.reverse()
    coco_files.annotations.reverse()
    coco_files.prepare(out="second")
    coco_files.prepare("--seed", "1", out="third")
    first, second, third = ([(row["id"], row["solution"]) for row in coco_files.bench.rows(out)]
                            for out in ("first", "second", "third"))  # fmt: skip
    assert first == second != third
    assert max(Counter(row_id.split("-")[0] for row_id, _ in first).values()) <= 6


def test_any_number_of_processes_asks_the_same(coco_files, monkeypatch):
    coco_files.seven_scenes()
    coco_files.add(3, 6, 500, 20, 40, 40)
    coco_files.prepare(out="single")
    monkeypatch.setattr(source, "_SCENES_PER_JOB", 2)
    coco_files.prepare("--num-proc", "2", out="two")
    assert coco_files.bench.rows("single") == coco_files.bench.rows("two")
    for out in ("single", "two"):
        assert coco_files.bench.summary(out)["rejected_by_reason"] == {"box_outside_image": 1}


def test_a_mask_without_a_pixel_is_a_rejected_row(coco_files):
    image = coco_files.image(1)
    coco_files.add(image, 1, 20, 20, 60, 60)
    coco_files.add(image, 17, 200, 200, 2, 2, segmentation=[[201, 201, 201.1, 201, 201, 201.1]])
    coco_files.prepare("--least-area", "1", "--per-image", "20")
    assert set(coco_files.bench.summary()["rejected_by_reason"]) == {"empty_mask"}
    assert coco_files.asked() and "cat" not in coco_files.asked()


def test_what_is_wrong_with_the_whole_file_is_an_error(coco_files):
    for image_id in range(1, 21):
        coco_files.image(image_id)
        coco_files.add(image_id, 18, 250, 20, 340, 100, segmentation=[])  # x2, y2 in place of width, height
    assert "20 of the 20 boxes" in coco_files.fails()
    for annotation in coco_files.annotations:
        annotation["bbox"] = [0.1, 0.2, 0.3, 0.3]
    assert "no question can be asked about the 20 objects" in coco_files.fails()
    coco_files.bench.json({}, "instances_2.json")
    result = coco_files.bench.prepare(
        "coco", "--instances", coco_files.bench.root / "instances*.json", "--images", coco_files.bench.images
    )
    assert result.exit_code == 2 and "names 2 files" in result.output


def test_plurals_and_articles():
    assert {name: plural(name) for name in CASES["plurals"]} == CASES["plurals"]
    assert is_there("apple") == "Is there an apple"
    assert (is_there("skis"), is_the("skis")) == ("Are there any skis", "Are the skis")
    names = "unicycle umbrella hourglass SUV TV X-ray".split()
    assert [is_there(name).split()[2] for name in names] == "a an an an a an".split()
    names = "traffic_light", "Wild Bird", "bow_(weapon)", "Cabinet/shelf", "TV"
    assert [spoken(name, "") for name in names] == ["traffic light", "wild bird", "bow", "cabinet", "TV"]
    assert (spoken("mouse", "electronic"), spoken("mouse", "animal")) == ("computer mouse", "mouse")
