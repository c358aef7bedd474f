"""`sayo ground`: regions for rows without any, from a server that sees the picture or from a tiny Grounding-DINO."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageOps
from synthesize.stub_server import pictures_of, text_of
from transformers import (
    BertTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SwinConfig,
)

from tests.data_prep.conftest import SAMPLES, Bench

TEXTS = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text())
BOX = (30, 40, 90, 80)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "what", "is", "there", "red", "mug"]


def paint(bench: Bench, name: str, size=(200, 100), orientation: int = 1) -> None:
    """A white picture that shows a red `BOX` when it is upright."""
    image = Image.new("RGB", size, "white")
    image.paste((255, 0, 0), BOX)
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {1: None, 6: Image.Transpose.ROTATE_90}[orientation]
    (image.transpose(undo) if undo else image).save(bench.images / name, exif=exif)


def red_box(body: dict) -> list[float]:
    """Where the picture of a request is red, as the model counts: 0 to 1000."""
    (picture,) = pictures_of(body)
    ys, xs = np.nonzero(np.asarray(picture)[..., 1] < 100)
    w, h = picture.size
    return [round(1000 * value) for value in (xs.min() / w, ys.min() / h, (xs.max() + 1) / w, (ys.max() + 1) / h)]


def boxes(*entries, label="mug") -> str:
    return (
        "```json\n" + json.dumps([{"bbox_2d": list(entry), "label": label} for entry in entries], indent=1) + "\n```"
    )


@pytest.fixture
def ground(tmp_path, server):
    """`ground(*lines)` prepares them; `ground.run(*options)` runs `sayo ground` on that with the stub's address."""

    class Ground(Bench):
        def __call__(self, *lines: dict) -> None:
            paint(self, "1.png")
            paint(self, "turned.jpg", (120, 160), orientation=6)
            sound = {"image": "1.png", "question": "What is there?", "answer": "red mug"}
            file = self.lines(*({"id": f"q{number}", **sound, **line} for number, line in enumerate(lines)))
            result = self.prepare("jsonl", "--questions", file, "--images", self.images, out="prepared")
            assert result.exit_code == 0, result.output

        def ground(self, *options):
            asked = ("--server", server.url, "--model", "ground") if "--detector" not in options else ()
            return self.run("ground", self.root / "prepared", "--out", self.root / "out", *asked, *options)

    server.roles["ground"] = lambda body: f"<think>{boxes((0, 0, 9, 9))}</think>{boxes(red_box(body))}"
    return Ground(tmp_path)


def test_rows_without_a_region_get_what_the_model_sees_and_say_so(ground, server):
    own = {"regions": [{"box": [0, 0, 50, 50], "label": "mine"}]}
    ground({}, own, {"image": "turned.jpg"}, {"images": ["turned.jpg", "1.png"], "question": "Both?"})
    processor, sheet = ("--processor", SAMPLES / "qwen3_vl"), ground.root / "sheet.png"
    result = ground.ground(*processor, "--sheet", sheet)
    assert result.exit_code == 0, result.output
    assert "4 of 4 questions kept, 4 with a region" in result.output and Image.open(sheet).size[0] > 200
    rows = {row["id"]: row for row in ground.rows()}
    for name in ("q0", "q2", "q3"):
        row = rows[name]
        assert json.loads(row["grounding"]) == {"by": "ground", "scores": [1.0] * len(row["images"])}
        for index, region in enumerate(row["regions"]):
            assert region["box"] == pytest.approx(BOX, abs=0.2) and region["image"] == index
            assert (region["role"], region["label"], region["weight"]) == ("answer", "mug", 1.0)
    assert (rows["q1"]["grounding"], rows["q1"]["regions"][0]["label"]) == (None, "mine")
    assert all(row["region_tokens"] and row["has_region"] for row in rows.values())
    assert "Answer: red mug" in text_of(server.requests[0]) and len(server.requests) == 3 * (1 + 1 + 2)
    assert {body["seed"] for body in server.requests} == {0, 1, 2}
    assert ground.run("map", ground.root / "out", *processor, "--out", ground.root / "mapped").exit_code == 0
    assert ground.rows("mapped") == ground.rows()


@pytest.mark.parametrize(("replies", "scores"), TEXTS["replies"])
def test_boxes_count_as_far_as_the_replies_agree(ground, server, replies, scores):
    ground({})
    server.roles["ground"] = lambda body: boxes(*replies[body["seed"]])
    assert ground.ground().exit_code == 0
    (row,) = ground.rows()
    assert row["has_region"] == bool(scores) == bool(row["regions"])
    assert json.loads(row["grounding"] or '{"scores": []}')["scores"] == scores


def test_pixels_and_one_sample(ground, server):
    ground({})
    server.roles["ground"] = lambda body: boxes(BOX)
    assert ground.ground("--samples", 1, "--coordinates", "pixels").exit_code == 0
    assert ground.rows()[0]["regions"][0]["box"] == list(BOX)
    assert "200 pixels wide and 100" in text_of(server.requests[0]) and len(server.requests) == 1


def test_a_row_that_failed_is_asked_again_and_no_other(ground, server):
    ground({}, {"question": "What fails?"}, {"question": "Third?"})
    server.fault = lambda model, text, attempt: (400, {}, b"no") if "fails" in text else None
    result = ground.ground("--sheet", ground.root / "sheet.png")
    assert result.exit_code == 1 and "1 rows failed at the server" in result.output
    assert ground.summary()["rejected_by_reason"] == {"server: http 400": 1} and len(ground.rows()) == 2
    assert ground.ground("--max-failed", 0.5).exit_code == 0, "what is there is kept"
    server.fault, server.requests = lambda *request: None, []
    assert ground.ground("--overwrite").exit_code == 0
    assert {"What fails?" in text_of(body) for body in server.requests} == {True} and len(ground.rows()) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--detector", "none"], "no Grounding-DINO"), (["--server", "http://x/v1"], "give --server and --model")],
)
def test_options_that_cannot_be_used(ground, options, message):
    ground({})
    result = ground.run("ground", ground.root / "prepared", "--out", ground.root / "out", *options)
    assert result.exit_code == 2 and message in " ".join(result.output.split())


@pytest.fixture
def detector(tmp_path):
    """Folder of a tiny random Grounding-DINO, made with its config."""
    folder = tmp_path / "dino"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    sides = {"shortest_edge": 64, "longest_edge": 96}
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=sides), tokenizer).save_pretrained(folder)
    swin, sizes = SwinConfig(**TEXTS["detector"]["swin"]), TEXTS["detector"]["model"]
    torch.manual_seed(0)
    config = GroundingDinoConfig(backbone_config=swin, text_config=TEXTS["detector"]["bert"], **sizes)
    GroundingDinoForObjectDetection(config).eval().save_pretrained(folder)
    return folder


def test_a_detectors_boxes_are_in_pixels_with_its_scores(ground, detector):
    ground({}, {"image": "turned.jpg"})
    assert ground.ground("--detector", detector, "--least-score", 0.9).exit_code == 0
    model = GroundingDinoForObjectDetection.from_pretrained(detector).eval()
    processor = GroundingDinoProcessor.from_pretrained(detector)
    for row in ground.rows():
        picture = ImageOps.exif_transpose(Image.open(ground.images / row["images"][0]["path"]))
        inputs = processor(images=picture, text="what is there. red mug.", return_tensors="pt")
        with torch.inference_mode():
            outputs = model(**inputs)
        scores = outputs.logits[0].max(-1).values.sigmoid()
        x, y, w, h = outputs.pred_boxes[0].unbind(-1)
        sides = torch.tensor(picture.size).repeat(2)
        expected = (torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1) * sides)[scores > 0.9]
        expected = expected.clamp(min=0).minimum(sides)
        assert 0 < len(expected) < len(scores) and [region["box"] for region in row["regions"]] == [
            pytest.approx(box, abs=0.01) for box in expected.tolist()
        ]
        found = json.loads(row["grounding"])
        assert found["by"] == "dino" and found["scores"] == pytest.approx(scores[scores > 0.9].tolist(), abs=1e-3)
        assert max(region["weight"] for region in row["regions"]) == 1.0
        for region in row["regions"]:
            words = set(region["label"].split())
            assert words <= {*WORDS[7:]} and region["role"] == (
                "answer" if {"red", "mug"} >= words > set() else "evidence"
            )
    assert ground.ground("--detector", detector, "--least-score", 1, "--overwrite").exit_code == 0
    assert not any(row["has_region"] for row in ground.rows())
