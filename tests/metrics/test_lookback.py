"""Look-Back's attention trend and lift on worked numbers."""

from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sayo.attention.trace import AttentionTrace
from sayo.metrics.lookback import attention_trend, back_spans, control_spans, lift, look_back_lift, token_span

MASSES = {"image": 0.20, "question": 0.08, "response": 0.30}  # and .02 on vision_end, in no group


def trace_of(masses: dict[str, list], num_tokens: int | None = None) -> AttentionTrace:
    """`masses`: group -> (L, T + 1), or (L, num_tokens) as read during generate."""
    arrays = {name: np.array(values, dtype=float) for name, values in masses.items()}
    num_layers, num_rows = arrays["image"].shape
    num_tokens = num_rows - 1 if num_tokens is None else num_tokens
    sizes = dict.fromkeys(arrays, 1.0)
    return AttentionTrace(arrays, sizes, np.zeros(num_tokens), tuple(range(num_layers)))


@given(st.floats(0.0, 0.95))
def test_shares_of_a_row_do_not_depend_on_the_prefix(prefix):
    masses = {name: [[0.5, mass * (1 - prefix) / 0.6]] for name, mass in MASSES.items()}
    trend = attention_trend(trace_of({"prefix": [[0.0, prefix]], **masses}))
    shares = [trend[name][0] for name in MASSES]
    assert shares == pytest.approx([0.333333, 0.133333, 0.5], abs=1e-6)


def test_layers_are_a_mean_of_ratios_and_a_layer_that_sees_the_prefix_only_counts_as_0():
    masses = {"image": [[0, 0.1, 0.1], [0, 0.3, 0.0]], "prefix": [[0, 0.8, 0.8], [0, 0.0, 1.0]]}
    assert attention_trend(trace_of(masses))["image"] == pytest.approx([(0.5 + 0.3) / 2, 0.5 / 2])


def test_rows_and_missing_groups():
    masses = {"prefix": np.zeros((1, 3)), "image": [[0.1, 0.2, 0.3]]}
    assert attention_trend(trace_of(masses))["image"] == pytest.approx([0.2, 0.3])
    assert attention_trend(trace_of(masses), "deciding")["image"] == pytest.approx([0.1, 0.2])
    generated = trace_of(masses, num_tokens=3)
    assert attention_trend(generated, "deciding")["image"] == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="rows='deciding'"):
        attention_trend(generated)
    with pytest.raises(KeyError, match="'prefix' was not read"):
        attention_trend(trace_of({"image": masses["image"]}))


def test_lift():
    series = np.array([0.9] * 5 + [0.1] * 20 + [0.3, 0.5] + [0.1] * 3)
    assert lift(series, [(25, 27)]) == [pytest.approx(4.0)]
    assert lift(series, [(25, 27)], window=25) == [pytest.approx(0.4 / 0.26)]
    assert lift(series, [(0, 3), (7, 7)]) == [None, None]
    assert lift(np.array([0.0, 0.5]), [(1, 2)]) == [None]


def test_lift_and_control_of_a_decay_with_one_look_back():
    series = np.full(100, 0.1)
    series[60:70] = 0.3
    value = look_back_lift(series, [(60, 70)])
    assert (value.lift, value.control, value.gain) == (pytest.approx(3), pytest.approx(1), pytest.approx(3))
    decay = 0.9 ** np.arange(100)
    value = look_back_lift(decay, [(60, 70)])
    assert value.gain == pytest.approx(1), "a decay is no look back"
    assert value.lift < 0.5 and look_back_lift(decay, [(4, 9)]).gain > 0.5
    assert look_back_lift(series, []) == (None, None, None)
    assert look_back_lift(series, [(0, 5)]).lift is None


def test_control_spans_touch_no_span_nor_follow_one():
    spans = [(30, 40)]
    found = control_spans(spans[0], spans, 80, window=20)
    assert found[0] == (20, 30) and (21, 31) not in found
    assert (60, 70) in found and (59, 69) not in found and found[-1] == (70, 80)
    assert control_spans((5, 5), [], 80) == [] and control_spans((0, 90), [(0, 90)], 90) == []


def test_spans_of_tokens_that_merge_tags_with_their_neighbours():
    """As Qwen's tokenizer cuts them; the ids' offsets are tested in `test_rollout.py`. An empty span is none."""
    tokens = ["<think", ">a", ".</", "think", "><", "back", ">o", "k<", "/back", "><", "think", ">b</think>"]
    ends = [0, *accumulate(map(len, tokens))]
    assert back_spans("".join(tokens), list(pairwise(ends))) == [(6, 8)]
    characters = [(start, start + 1) for start in range(ends[-1])]
    assert back_spans("".join(tokens), characters) == [(ends[6] + 1, ends[7] + 1)]
    assert back_spans("<back> </back>", [(0, 14)]) == [] and token_span((3, 3), []) == (0, 0)
