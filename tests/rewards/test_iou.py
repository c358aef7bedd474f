"""Boxes as answers."""

from contextlib import nullcontext

import datasets
import pytest
from PIL import Image

from sayo.recipes import DataSection, RecipeError
from sayo.rewards.accuracy import accuracy_reward
from sayo.rewards.iou import iou_reward
from sayo.training.setup import load_data

SOLUTION = "[100, 50, 300, 250]"


@pytest.mark.parametrize(
    "text",
    [
        "[100, 50, 300, 250]",
        "<answer>[100,50,300,250]</answer>",
        '```json\n[{"bbox_2d": [100, 50, 300, 250], "label": "dog"}]\n```',
        "<|box_start|>(100,50),(300,250)<|box_end|>",
        "<box>[[100, 50, 300, 250]]</box>",
        "<think>[1, 2, 3, 4]?</think> The box is [100.0, 50.0, 300.0, 250.0].",
        "x1=100, y1=50, x2=300, y2=250",
        "100, 50, 300, 250",
    ],
)
def test_forms_of_a_box(text):
    assert iou_reward([text], [SOLUTION]) == [1.0]


@pytest.mark.parametrize(
    "text", ["", "[100, 50, 300]", "[1, 2, 3, 4, 5]", "[300, 250, 100, 50]", f"{SOLUTION} [0, 0, 9, 9]"]
)
def test_what_is_no_box_earns_nothing(text):
    assert iou_reward([text], [SOLUTION]) == [0.0]


def test_coordinates_and_thresholds():
    texts, sizes = ["[200, 125, 600, 625]"], [[[500, 400]]]
    assert iou_reward(texts, [SOLUTION], sizes, "thousand") == [pytest.approx(1.0)]
    assert iou_reward(["[.2, .1, .6, .6]"], [SOLUTION], sizes, "unit") == [0.0]  # a number needs its zero
    assert iou_reward(["[0.2, 0.125, 0.6, 0.625]"], [SOLUTION], sizes, "unit") == [pytest.approx(1.0)]
    assert iou_reward(["[100, 50, 300, 150]"] * 2, [SOLUTION] * 2, threshold=None) == [0.5, 0.5]
    assert iou_reward(["[100, 50, 300, 140]"], [SOLUTION], threshold=0.5) == [0.0]
    assert iou_reward(["cat"], ["cat"]) == [None]
    with pytest.raises(ValueError, match="image_sizes"):
        iou_reward(texts, [SOLUTION], coordinates="thousand")


def test_accuracy_takes_a_box_that_is_nearly_the_one():
    asked = [[{"role": "user", "content": 'Give the box of "dog" as [x1, y1, x2, y2].'}]]
    assert accuracy_reward(["<answer>[100, 50, 301, 250]</answer>"], [SOLUTION], prompts=asked) == [1.0]
    assert accuracy_reward(["<answer>[0, 50, 99, 250]</answer>"], [SOLUTION], prompts=asked) == [0.0]
    assert accuracy_reward(["<answer>[2, 4, 6, 9]</answer>"], ["[2, 4, 6, 8]"]) == [0.0]  # a list of numbers


@pytest.mark.parametrize(
    ("suffix", "says", "response", "coordinates"),
    [
        ("box-pixels", "500 pixels wide and 400 pixels high", SOLUTION, "pixels"),
        ("box-thousand", "1000 at its right edge", "[200, 125, 600, 625]", "thousand"),
    ],
)
def test_a_prompt_says_how_the_rewards_box_counts(tmp_path, suffix, says, response, coordinates):
    row = {"prompt": [{"role": "user", "content": "Where is it?"}], "solution": SOLUTION, "image_sizes": [[500, 400]],
           "images": [Image.new("RGB", (500, 400))]}  # fmt: skip
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "data/train-00000-of-00001.parquet")
    (asked,) = load_data(DataSection(path=str(tmp_path), user_suffix=suffix), "train")
    text = asked["prompt"][-1]["content"]
    assert text.startswith("Where is it?\n") and says in text and "<answer>" in text and "{" not in text
    completion = f"<answer>{response}</answer>"
    assert iou_reward([completion], [SOLUTION], [asked["image_sizes"]], coordinates) == [pytest.approx(1.0)]
    other = {"pixels": "thousand", "thousand": "pixels"}[coordinates]
    assert iou_reward([completion], [SOLUTION], [asked["image_sizes"]], other)[0] < 0.5
    datasets.Dataset.from_list([row]).remove_columns("image_sizes").to_parquet(tmp_path / "plain.parquet")
    plain = DataSection(path=str(tmp_path / "plain.parquet"), user_suffix=suffix)
    with nullcontext() if suffix == "box-thousand" else pytest.raises(RecipeError, match="picture's size"):
        load_data(plain, "train")
