import pytest

from sayo.rewards.format import format_reward

GOOD = "I look at the red disc. <answer>red</answer>"


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(60, 1.0), (80, 1.0), (100, 1.0), (101, 0.6 * 100 / 101), (200, 0.3), (59, 0.59), (30, 0.3), (0, 0.0)],
)
def test_length_window(tokens, expected):
    assert format_reward([GOOD], [[7] * tokens]) == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, 1.0),
        ("<answer>red</answer>", 1.0),
        ("<answer>\nred\n</answer>\n", 1.0),
        ("red", 0.0),
        ("<answer>red", 0.0),
        ("red</answer>", 0.0),
        ("</answer>red<answer>", 0.0),
        ("<answer> </answer>", 0.0),
        ("<answer>red</answer><answer>blue</answer>", 0.0),
        ("<answer>red</answer></answer>", 0.0),
        ("", 0.0),
    ],
)
def test_tags(text, expected):
    assert format_reward([text], min_tokens=None, max_tokens=None) == [expected]
    message = [{"role": "assistant", "content": text}]
    assert format_reward([message], [[7] * 80]) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"), [(GOOD, 1.0), ("<answer>red</answer>", 0.0), (" ...\n<answer>red</answer> because", 0.0)]
)
def test_reasoning_on_request(text, expected):
    assert format_reward([text], [[7] * 80], require_reasoning=True) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>I look.\n</think>\n<answer>red</answer>", 1.0),
        ("<think></think><answer>\nred\n</answer>", 1.0),
        (GOOD, 0.0),
        ("So: <think>I look.</think><answer>red</answer>", 0.0),
        ("<think>I look.</think> so <answer>red</answer>", 0.0),
        ("<think>I look.</think><answer>red</answer>\n", 0.0),
        ("<think>I look.</think><answer> </answer>", 0.0),
        ("<think><answer>red</answer></think><answer>red</answer>", 0.0),
    ],
)
def test_think_and_answer_must_be_the_whole_response(text, expected):
    assert format_reward([text], min_tokens=None, max_tokens=None, think=True) == [expected]


def test_a_window_needs_token_ids():
    with pytest.raises(ValueError, match="completion_ids"):
        format_reward([GOOD])
