"""Rewards of the form: tags, a window of lengths, a look back."""

from pathlib import Path

import pytest
import yaml

from sayo.answers.extract import parse_look_back
from sayo.rewards.format import format_reward
from sayo.rewards.look_back import look_back_reward

TEXTS = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text())
GOOD = "I look at the red disc. <answer>red</answer>"


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(60, 1.0), (80, 1.0), (100, 1.0), (101, 0.6 * 100 / 101), (200, 0.3), (59, 0.59), (30, 0.3), (0, 0.0)],
)
def test_length_window(tokens, expected):
    assert format_reward([GOOD], [[7] * tokens]) == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize(("text", "expected"), TEXTS["tags"].items())
def test_tags(text, expected):
    assert format_reward([text], min_tokens=None, max_tokens=None) == [expected]
    message = [{"role": "assistant", "content": text}]
    assert format_reward([message], [[7] * 80]) == [expected]


@pytest.mark.parametrize(("text", "expected"), TEXTS["reasoning"].items())
def test_reasoning_on_request(text, expected):
    assert format_reward([text], [[7] * 80], require_reasoning=True) == [expected]


@pytest.mark.parametrize(("text", "expected"), TEXTS["think"].items())
def test_think_and_answer_must_be_the_whole_response(text, expected):
    assert format_reward([text], min_tokens=None, max_tokens=None, think=True) == [expected]


def test_a_window_needs_token_ids():
    with pytest.raises(ValueError, match="completion_ids"):
        format_reward([GOOD])


CHECK = "I look again at the red disc and its blue frame in the corner."
LOOKS_BACK = rf"<think> first </think> <back> {CHECK} </back> <think> so </think> The answer is \boxed{{red}}"


@pytest.mark.parametrize(("text", "expected"), TEXTS["look_back"].items())
def test_look_back_parser(text, expected):
    parsed = parse_look_back(text)
    assert [parsed.strict, parsed.lenient, len(parsed.spans)] == expected


def test_look_back_reward():
    thin = LOOKS_BACK.replace(CHECK, "ok")
    loose = rf"<back>{CHECK}</back> \boxed{{red}}"
    messages = [[{"role": "assistant", "content": text}] for text in (LOOKS_BACK, thin, loose, "")]
    assert look_back_reward(messages) == [1.0, 0.0, 0.0, 0.0]
    assert look_back_reward(messages, strict=False) == [1.0, 0.0, 1.0, 0.0]
    assert look_back_reward(messages, min_words=1) == [1.0, 1.0, 0.0, 0.0]
