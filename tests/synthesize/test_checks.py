"""What counts as a visual anchor, as a leak, as a near duplicate."""

import time
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep.synthesize import checks
from data_prep.synthesize.duplicates import NearDuplicates
from sayo.errors import RejectedError

TEXTS = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text())


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind in ("one", "none") for text in TEXTS["anchors"][kind]]
)
def test_anchors(kind, text):
    assert len(checks.anchors(text)) == ["none", "one"].index(kind)


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind in ("some", "none") for text in TEXTS["leaks"][kind]]
)
def test_leaks(kind, text):
    with pytest.raises(RejectedError, match="leak") if kind == "some" else nullcontext():
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
