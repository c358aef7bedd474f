"""What counts as a visual anchor, as a leak, as a near duplicate."""

import time
from contextlib import nullcontext, suppress

import numpy as np
import pytest

from data_prep.synthesize import checks
from data_prep.synthesize.duplicates import NearDuplicates
from sayo.errors import RejectedError


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "look back at the triangle"),
        (1, "Let me check the image again."),
        (1, "Looking back at the left side, ..."),
        (1, "I should re-examine the diagram carefully"),
        (1, "Let's zoom into the upper part of the picture"),
        (1, "I return once more back to the scene"),
        (1, "Rechecking the small red bar in the graph"),
        (0, "look back at my reasoning"),
        (0, "check the equation again"),
        (0, "The image shows a triangle."),
        (0, "Let me check my work on the image of the function"),
        (0, "a lookout at the image"),
    ],
)
def test_anchors(number, text):
    assert len(checks.anchors(text)) == number


def test_the_anchor_of_the_last_two_thirds_counts():
    before, anchor = "I think it over. ", "Let me check the image again."
    checks.check_anchors(before * 10 + anchor, "x")
    checks.check_anchors(anchor + before * 10 + anchor, "x")
    with pytest.raises(RejectedError, match="anchor_too_early"):
        checks.check_anchors(before + anchor + before * 10, "x")


@pytest.mark.parametrize(
    ("leaks", "text"),
    [
        (True, "From the description, it is 3."),
        (True, "as described above"),
        (True, "The provided text says 3."),
        (True, "Your caption mentions it."),
        (True, "It agrees with the given answer."),
        (False, "The motion is described by a line; using the given information, AB = 3."),
        (False, "He captions his drawings."),
        (False, "I cannot see any dog in front of the house."),
        (False, "So the correct answer is B."),
        (False, "The result given by the formula is 3."),
    ],
)
def test_leaks(leaks, text):
    with pytest.raises(RejectedError, match="leak") if leaks else nullcontext():
        checks.check_leaks(text, "How many?", "x", ("text", "blind", "answer"))


@pytest.mark.parametrize(
    "piece", ["look ", "look back ", "check" + " " * 50, "a,", "<think>", "<|", "look\n,", "the correct answer "]
)
def test_hostile_text_is_checked_in_linear_time(piece):
    text = piece * (50_000 // len(piece))
    start = time.process_time()
    checks.anchors(text)
    for check in (
        lambda: checks.check_leaks(text, "q", "x", ("text", "blind", "answer")),
        lambda: checks.check_text(text, "x"),
    ):
        with suppress(RejectedError):
            check()
    assert time.process_time() - start < 2


def _texts(number: int, words: int = 200) -> list[list[str]]:
    rng = np.random.default_rng(0)
    return [[f"w{word}" for word in rng.integers(0, 5000, words)] for _ in range(number)]


def test_near_duplicates_are_found_among_many():
    seen, texts = NearDuplicates(0.8), _texts(300)
    assert [seen.add(str(i), " ".join(words)) for i, words in enumerate(texts)] == [None] * 300
    for i, words in enumerate(texts):
        changed = [*words]
        changed[100] = "another"  # breaks 5 of 196 5-grams
        name, overlap = seen.add("again", " ".join(changed).upper())
        assert name == str(i) and overlap == pytest.approx(191 / 201)


def test_half_a_text_is_no_near_duplicate_and_short_texts_count():
    seen = NearDuplicates(0.8)
    [words] = _texts(1)
    assert seen.add("a", " ".join(words)) is None
    assert seen.add("b", " ".join([*words[:100], *(f"x{i}" for i in range(100))])) is None
    assert seen.add("c", "Red.") is None and seen.add("d", "red") == ("c", 1.0)
    assert seen.add("e", "") is None
