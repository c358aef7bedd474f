"""Rewards of the answer: words, numbers and letters, and boxes."""

import threading
import time
from contextlib import nullcontext
from pathlib import Path

import datasets
import pytest
import yaml
from PIL import Image

from sayo.recipes import DataSection, RecipeError
from sayo.rewards.accuracy import accuracy_reward
from sayo.rewards.iou import iou_reward
from sayo.training.setup import load_data

CASES, TEXTS = (yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text()) for name in ("answers", "texts"))
NASTY = [piece * count + "".join(end) for piece, count, *end in TEXTS["nasty"]]
RIGHT, WRONG = (
    [(gold, answer) for gold, answers in CASES[kind].items() for answer in answers] for kind in ("right", "wrong")
)


def score(gold, answer, **options):
    return accuracy_reward([f"<answer>{answer}</answer>"], [gold], **options)[0]


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_right_answers(gold, answer):
    assert score(gold, answer) == 1.0


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_wrong_answers(gold, answer):
    assert score(gold, answer) == 0.0


@pytest.mark.parametrize(("text", "expected"), CASES["read"])
def test_where_the_answer_is_read(text, expected):
    assert accuracy_reward([text], ["cat"]) == [expected]


def test_the_whole_text_counts_only_on_request():
    assert accuracy_reward(["cat", "I see a cat and a dog"], ["cat", "cat"], whole_text=True) == [1.0, 0.0]


@pytest.mark.parametrize(("completion", "expected"), TEXTS["completions"])
def test_every_shape_of_completion(completion, expected):
    assert accuracy_reward([completion], ["cat"]) == [expected]


@pytest.mark.parametrize("gold", [None, "", "   ", float("nan"), [], [None, ""]])
def test_no_reference_is_not_a_wrong_answer(gold):
    assert accuracy_reward(["<answer>cat</answer>"], [gold]) == [None]


def test_several_accepted_answers():
    completions = ["<answer>sofa</answer>", "<answer>couch</answer>", "<answer>chair</answer>"]
    assert accuracy_reward(completions, ["couch"] * 3, [["couch", "sofa"]] * 3) == [1.0, 1.0, 0.0]
    assert accuracy_reward(completions, [None] * 3, [["couch", "sofa"], None, []]) == [1.0, None, None]


def test_the_extracted_answer_is_logged():
    logged = {}
    accuracy_reward(["<answer>cat</answer>", "?"], ["cat", "cat"], log_extra=logged.__setitem__)
    assert logged == {"extracted_answer": ["cat", None]}


@pytest.mark.parametrize("gold", ["5", "x^2+1", "cat", "B. cat"])
def test_nothing_crashes_or_hangs(gold):
    started = time.process_time()  # another process may have the machine
    rewards = accuracy_reward([f"<answer>{text}</answer>" for text in NASTY], [gold] * len(NASTY))
    rewards += accuracy_reward(NASTY, [gold] * len(NASTY), whole_text=True)
    assert set(rewards) == {0.0}
    assert time.process_time() - started < 10


@pytest.mark.parametrize("nasty", NASTY)
def test_a_nasty_reference_does_not_crash(nasty):
    assert score(nasty, "5") in (0.0, None)


def test_works_outside_the_main_thread():
    """math-verify's alarm needs the main thread; async rewards and servers do not run there."""
    golds, answers = zip(*RIGHT, *WRONG, strict=True)
    completions = [f"<answer>{answer}</answer>" for answer in answers]
    rewards = []
    thread = threading.Thread(target=lambda: rewards.extend(accuracy_reward(completions, list(golds))))
    thread.start()
    thread.join(timeout=60)
    assert rewards == accuracy_reward(completions, list(golds))


SOLUTION = "[100, 50, 300, 250]"


@pytest.mark.parametrize("text", TEXTS["boxes"])
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
