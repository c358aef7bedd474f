import threading
import time
from pathlib import Path

import pytest
import yaml

from sayo.rewards.accuracy import accuracy_reward

CASES = yaml.safe_load(Path(__file__).with_name("answers.yaml").read_text())
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


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ([{"role": "assistant", "content": "<answer>cat</answer>"}], 1.0),
        ([{"role": "assistant", "content": [{"type": "text", "text": "<answer>cat</answer>"}]}], 1.0),
        ([{"role": "assistant", "content": "<answer>cat</answer>"}, {"role": "tool", "content": "dog"}], 1.0),
        ([{"role": "assistant", "content": None}], 0.0),
        ([{"role": "assistant"}], 0.0),
        ([], 0.0),
        (None, 0.0),
    ],
)
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


NASTY = [
    "9" * 100_000,
    "9**9**9**9",
    "9^{9^{9^9}}",
    "((9^9)^9)^9",
    "9^{99999999}",
    "99999999!",
    "((9!)!)!",
    r"\sum_{n=1}^{99999999} n",
    r"\binom{9999999}{99999}",
    r"\int_0^1 x^x dx",
    "(" * 50_000,
    "{" * 190,
    "-" * 190 + "1",
    "+".join(["x"] * 95),
    "(x+1)^{99}",
    r"\frac" * 60,
    "1/0",
    "0/0",
    r"\sqrt" * 50 + "2",
    "<answer>" * 50_000,
    "\\boxed{" * 50_000,
    " " * 100_000,
    "\x00\ud800\uffff",
    "$" * 300,
    "\\",
    "^",
    "=",
    "a" * 2000,
    "B." * 1000,
]


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
