import threading
import time

import pytest

from sayo.rewards.accuracy import accuracy_reward


def pairs(table: list[tuple]) -> list[tuple]:
    """`(accepted, answers with bars between them)` -> `(accepted, answer)`."""
    return [(accepted, answer) for accepted, answers in table for answer in answers.split("|")]


RIGHT_ANSWERS = [
    ("cat", r"cat|  The Cat. |**cat**|'cat'|(cat)|\text{cat}|The answer is: cat."),
    ("man on a horse", "a man on the horse!"),
    ("ice-cream", "ice cream"),
    ("dog's bowl", "dog’s bowl"),
    ("black, white", "black white"),
    ("café", "cafe\u0301"),
    ("yes", "Yes|YES!"),
    ("option trading", "option trading"),
    ("是", "是"),
    ("2", "two"),
    ("Twenty-one", "21"),
    ("two cats", "2 cats"),
    ("10 cats", "10 cats."),
    ("B", r"B|(B)|b.|B. cat|B) cat|(B) cat|Option B|The correct answer is (B).|\text{(B)}"),
    ("(B)", "B"),
    ("B. cat", "B|cat|(B) The cat"),
    ("A", "a"),
    ("10", "10|10.0|$10$|x = 10"),
    ("x=10", "10"),
    ("1000", "1,000"),
    ("1/2", "0.5"),
    ("0.5", r"\frac{1}{2}"),
    (r"$\frac{1}{2}$", r"\dfrac12"),
    ("1 1/2", "1.5"),
    ("-5", "−5"),
    ("2x+2", "2(x+1)"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("2π", r"2\pi"),
    ("(1, 2)", "(1,2)"),
    (r"\{1, 2\}", r"\{2, 1\}"),
    ("45", r"45^\circ"),
    ("45°", "45 degrees"),
    ("5 cm", r"5\text{ cm}"),
    ("5", "5 cm"),
    ("12 cm^2", "12 cm²"),
    ("50%", "50|0.5"),
    ("50", r"50\%"),
    ("3-5", "3–5"),
    (7, "7"),
    (2.5, "2.5"),
    ("<answer>cat</answer>", "cat"),
    (r"\boxed{3}", "3.0"),
]
WRONG_ANSWERS = [
    ("cat", "dog|cat and dog|cat or dog|not a cat||..."),
    ("yes", "yes and no|no|eyes"),
    ("no", "on"),
    ("now", "won"),
    ("none", "0"),
    ("left", "left right"),
    ("10", r"10 cats|10\text{ cats}|110|-10|1 0|3 or 10|9, 10|8 9 10|11 = 10|2x = 10|x < 10|10 20|10%5"),
    ("10 cats", "10"),
    ("7", "3 4"),
    ("1.5", "15"),
    ("34", "3.4"),
    ("3.4", "3,4"),
    ("3", "3, 4|3 3"),
    ("12:30", "1230|2:5"),
    ("2018", "2024-05-01"),
    ("3-5", "-2"),
    ("1/3", "0.33"),
    ("5 cm", "5 m"),
    ("5 cm^2", "5 cm"),
    ("50%", "5000%|5000"),
    ("x=5", "y=5"),
    ("x-y", "x+y"),
    ("5m", "5"),
    ("5", "5less|5x"),
    ("(1,2)", "(2,1)"),
    ("[1,2)", "(1,2]"),
    (r"\infty", r"-\infty"),
    ("B", "A|A, B|AB|A and B"),
    ("A", "A. cat B. dog|(A) (B) (C)|A. B|a cat|a.m."),
    ("A, C", "C"),
    ("B. cat", "B. dog|C. cat|C"),
    ("I", "1"),
]
RIGHT, WRONG = pairs(RIGHT_ANSWERS), pairs(WRONG_ANSWERS)


def score(gold, answer, **options):
    return accuracy_reward([f"<answer>{answer}</answer>"], [gold], **options)[0]


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_right_answers(gold, answer):
    assert score(gold, answer) == 1.0


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_wrong_answers(gold, answer):
    assert score(gold, answer) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I see it. <answer>cat</answer>", 1.0),
        ("<answer>dog</answer> no, wait <answer>cat</answer>", 1.0),
        ("<answer>cat</answer> no, wait <answer>dog</answer>", 0.0),
        ("<answer>cat</answer> <answer>dog", 1.0),
        ("<answer><answer>cat</answer></answer>", 1.0),
        ("<ANSWER>\ncat\n</ANSWER>", 1.0),
        (r"so \boxed{cat}", 1.0),
        (r"\boxed{dog} then \boxed{\text{cat}}", 1.0),
        (r"<answer>\boxed{cat}</answer>", 1.0),
        (r"\boxed{cat} <answer>dog</answer>", 0.0),
        (r"\boxed{cat", 0.0),
        ("<answer>cat", 0.0),
        ("cat</answer>", 0.0),
        ("cat", 0.0),
        ("<answer></answer> cat", 0.0),
        ("", 0.0),
    ],
)
def test_where_the_answer_is_read(text, expected):
    assert accuracy_reward([text], ["cat"]) == [expected]


def test_the_whole_text_counts_only_on_request():
    assert accuracy_reward(["cat", "I see a cat"], ["cat", "cat"], whole_text=True) == [1.0, 0.0]


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
    started = time.perf_counter()
    rewards = accuracy_reward([f"<answer>{text}</answer>" for text in NASTY], [gold] * len(NASTY))
    rewards += accuracy_reward(NASTY, [gold] * len(NASTY), whole_text=True)
    assert set(rewards) == {0.0}
    assert time.perf_counter() - started < 10


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
