import numpy as np
import pytest

from sayo.attention.trace import AttentionTrace
from sayo.rewards import late_attention_reward, visual_share_reward

RIGHT, WRONG = "<answer>red</answer>", "<answer>blue</answer>"


def trace(system_size=3.0, **masses):
    arrays = {name: np.float32([[0.0, *values]]) for name, values in masses.items()}
    tokens = len(next(iter(masses.values())))
    sizes = {"image": 4.0, "system": system_size}
    return AttentionTrace(arrays, {name: sizes[name] for name in arrays}, np.ones(tokens, np.float32), layers=(3,))


SHARE = trace(image=[0.30, 0.06], system=[0.02, 0.03])


def test_visual_share_worked_number():
    assert visual_share_reward([RIGHT], [SHARE], ["red"], bound=False) == pytest.approx([8.499592], abs=1e-6)
    assert visual_share_reward([RIGHT], [SHARE], ["red"]) == pytest.approx([8.499592 / 9.499592], abs=1e-6)
    ratio = visual_share_reward([RIGHT], [SHARE], ["red"], bound=False, order="ratio_of_sums", eps=0.0)
    assert ratio == pytest.approx([7.2], abs=1e-5)  # masses are float32


def test_visual_share_is_paid_to_right_answers_only():
    no_system = trace(system_size=0.0, image=[0.3, 0.1], system=[0.0, 0.0])
    empty = trace(image=[], system=[])
    rewards = visual_share_reward(
        [WRONG, RIGHT, RIGHT, RIGHT, RIGHT], [SHARE, None, SHARE, no_system, empty], ["red", "red", None, "red", "red"]
    )
    assert rewards == [0.0, None, None, None, None]


def test_visual_share_needs_the_system_masses():
    with pytest.raises(KeyError, match="system"):
        visual_share_reward([RIGHT], [trace(image=[0.1, 0.1])], ["red"])


@pytest.mark.parametrize(
    ("first", "second", "floor", "expected"),
    [(0.2, 0.1, 0.0, 0.5), (0.2, 0.3, 0.0, 1.0), (0.02, 0.02, 0.1, 0.2), (0.0, 0.05, 0.1, 0.5), (0.4, 0.1, 0.1, 0.25)],
)
def test_late_attention(first, second, floor, expected):
    captured = trace(image=[9.0, 9.0] + [first] * 14 + [second] * 14 + [9.0, 9.0])
    reward = late_attention_reward([RIGHT], [captured], ["red"], floor=floor)
    assert reward == pytest.approx([expected], abs=1e-5)


def test_late_attention_is_gated():
    long, short = trace(image=[0.2] * 40), trace(image=[0.2] * 31)
    logged = []
    rewards = late_attention_reward(
        [RIGHT, WRONG, RIGHT, RIGHT, RIGHT],
        [long, long, short, None, long],
        ["red", "red", "red", "red", ""],
        log_metric=lambda name, value: logged.append(name),
    )
    assert rewards == [pytest.approx(1.0, abs=1e-6), 0.0, 0.0, None, None]
    assert logged == ["reflection/first_half", "reflection/second_half"] * 2


def test_too_short_to_halve():
    with pytest.raises(ValueError, match="min_tokens"):
        late_attention_reward([], [], [], min_tokens=5)
