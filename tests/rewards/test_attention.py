"""Rewards of attention: on the region, on the image against the system prompt, and late in a response."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sayo.attention.trace import AttentionTrace
from sayo.rewards import late_attention_reward, region_attention_reward, region_share_reward, visual_share_reward


def trace(target, image, entropy=None, region_size=2.0, image_size=4.0):
    """One layer (or `(L, T + 1)`) of masses; row 0 decided the first token."""
    target, image = np.atleast_2d(np.float32(target)), np.atleast_2d(np.float32(image))
    tokens = target.shape[1] - 1
    return AttentionTrace(
        masses={"region": target, "image": image},
        sizes={"region": region_size, "image": image_size},
        entropy=np.float32(np.ones(tokens) if entropy is None else entropy),
        layers=tuple(range(len(target))),
    )


def reward(trace, **options):
    return region_attention_reward(["a completion"], [trace], **options)[0]


@pytest.mark.parametrize(
    ("ratio", "expected"), [(2.0, 0.6), (1.0, 0.0), (0.5, -0.6), (3.0, 0.8), (0.0, -1.0)], ids=str
)
@pytest.mark.parametrize("select", ["top_entropy", "all", "entropy_weighted"])
def test_worked_numbers(ratio, expected, select):
    captured = trace([0.1 * ratio] * 4, [0.2] * 4)
    assert reward(captured, select=select) == pytest.approx(expected, abs=1e-6)
    assert reward(captured, select=select, positive=True) == pytest.approx((1 + expected) / 2, abs=1e-6)


def test_share_of_the_image_on_the_region():
    """Pooled before the ratio, at the rows that chose the tokens; a malformed answer earns nothing."""
    captured, blind = trace([0.1, 0.3, 0.9], [0.2, 0.6, 0.9]), trace([0.0] * 3, [0.0] * 3)
    completions = ["<answer>red</answer>", "red", "<answer>red</answer>", "<answer>red</answer>"]
    shares = region_share_reward(completions, [captured, captured, None, blind])
    assert shares == [pytest.approx(0.5, abs=1e-6), 0.0, None, None]


def test_means_come_before_the_ratio():
    """SAYO's order, on two heads x two tokens: .241965, and not the mean of the tokens' scores, .251326."""
    a = np.array([[0.04, 0.03], [0.04, 0.05]]).mean(axis=0)  # over heads, as the capture does
    v = np.array([[0.025, 0.025], [0.025, 0.05]]).mean(axis=0)
    assert reward(trace([0, *(a * 2)], [0, *(v * 4)]), select="all") == pytest.approx(0.241965, abs=1e-6)
    layers = trace([[0.0, 0.3], [0.0, 0.1]], [[0.0, 0.2], [0.0, 0.6]])  # alone: .8 and -.8: a = v = .1
    assert reward(layers) == pytest.approx(0.0, abs=1e-6)


def test_rows():
    captured = trace([0.4, 0.1, 0.1], [0.4, 0.4, 0.4], entropy=[1.0, 0.0])
    assert reward(captured, rows="deciding") == pytest.approx(0.6, abs=1e-6)
    assert reward(captured, rows="of_token") == pytest.approx(-0.6, abs=1e-6)
    with pytest.raises(ValueError, match="rows"):
        reward(captured, rows="both")


def test_only_the_uncertain_tokens_count():
    entropy = [0.1, 2.0, 0.1, 0.1, 3.0, 0.1, 0.1]  # k = ceil(.3 * 7) = 3: tokens 4, 1 and, of the ties, 0
    target = [0, 0.2, 0.4, 0, 0, 0.6, 0, 0]
    captured = trace(target, [0.4] * 8, entropy)
    x = (0.2 + 0.4 + 0.6) / 3 / 2 / 0.1
    assert reward(captured) == pytest.approx((x * x - 1) / (x * x + 1), abs=1e-6)
    weighted = (0.1 * 0.2 + 2 * 0.4 + 3 * 0.6) / 5.5 / 2 / 0.1
    assert reward(captured, select="entropy_weighted") == pytest.approx(math.tanh(math.log(weighted)), abs=1e-6)


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12), st.floats(0.05, 1.0))
def test_the_whole_image_as_target_scores_exactly_zero(masses, share):
    captured = trace(masses, masses, region_size=4.0)
    assert reward(captured, top_share=share) == 0.0
    assert reward(captured, select="entropy_weighted", rows="deciding") == 0.0


@given(st.floats(0.25, 4.0))
def test_scaling_all_attention_changes_nothing(scale):
    target, image = np.array([0.02, 0.04, 0.01]), np.array([0.1, 0.2, 0.15])
    assert reward(trace(target * scale, image * scale)) == pytest.approx(reward(trace(target, image)), abs=1e-5)


def test_no_region_is_none_and_no_attention_is_neutral():
    assert reward(trace([0, 0, 0], [0, 0, 0])) == 0.0
    no_region = AttentionTrace(
        {"image": np.ones((1, 3), np.float32)}, {"image": 4.0}, np.ones(2, np.float32), layers=(0,)
    )
    empty = trace([0.1], [0.2])
    assert region_attention_reward(["", "", ""], [None, no_region, empty]) == [None, None, None]


def test_broken_input_is_an_error():
    with pytest.raises(ValueError, match="finite"):
        reward(trace([0.1, float("nan")], [0.1, 0.1]))
    with pytest.raises(ValueError, match="finite"):
        reward(trace([0.1, 0.1], [0.1, 0.1], entropy=[float("nan")]))
    with pytest.raises(ValueError, match="one each"):
        region_attention_reward(["a", "b"], [None])
    with pytest.raises(ValueError, match="eps"):
        reward(trace([0.1, 0.1], [0.1, 0.1]), eps=0.0)


RIGHT, WRONG = "<answer>red</answer>", "<answer>blue</answer>"


def of_groups(system_size=3.0, **masses):
    arrays = {name: np.float32([[0.0, *values]]) for name, values in masses.items()}
    tokens = len(next(iter(masses.values())))
    sizes = {"image": 4.0, "system": system_size}
    return AttentionTrace(arrays, {name: sizes[name] for name in arrays}, np.ones(tokens, np.float32), layers=(3,))


SHARE = of_groups(image=[0.30, 0.06], system=[0.02, 0.03])


def test_visual_share_worked_number():
    assert visual_share_reward([RIGHT], [SHARE], ["red"], bound=False) == pytest.approx([8.499592], abs=1e-6)
    assert visual_share_reward([RIGHT], [SHARE], ["red"]) == pytest.approx([8.499592 / 9.499592], abs=1e-6)
    ratio = visual_share_reward([RIGHT], [SHARE], ["red"], bound=False, order="ratio_of_sums", eps=0.0)
    assert ratio == pytest.approx([7.2], abs=1e-5)  # masses are float32


def test_visual_share_is_paid_to_right_answers_only():
    no_system = of_groups(system_size=0.0, image=[0.3, 0.1], system=[0.0, 0.0])
    empty = of_groups(image=[], system=[])
    rewards = visual_share_reward(
        [WRONG, RIGHT, RIGHT, RIGHT, RIGHT], [SHARE, None, SHARE, no_system, empty], ["red", "red", None, "red", "red"]
    )
    assert rewards == [0.0, None, None, None, None]


def test_visual_share_needs_the_system_masses():
    with pytest.raises(KeyError, match="system"):
        visual_share_reward([RIGHT], [of_groups(image=[0.1, 0.1])], ["red"])


@pytest.mark.parametrize(
    ("first", "second", "floor", "expected"),
    [(0.2, 0.1, 0.0, 0.5), (0.2, 0.3, 0.0, 1.0), (0.02, 0.02, 0.1, 0.2), (0.0, 0.05, 0.1, 0.5), (0.4, 0.1, 0.1, 0.25)],
)
def test_late_attention(first, second, floor, expected):
    captured = of_groups(image=[9.0, 9.0] + [first] * 14 + [second] * 15 + [9.0, 9.0])  # the middle one is late
    reward = late_attention_reward([RIGHT], [captured], ["red"], floor=floor)
    assert reward == pytest.approx([expected], abs=1e-5)


def test_late_attention_is_gated():
    long, short = of_groups(image=[0.2] * 40), of_groups(image=[0.2] * 31)
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
