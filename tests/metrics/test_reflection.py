import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sayo.metrics.reflection import half_means, late_attention


def test_halves():
    assert late_attention(np.array([0.30, 0.20, 0.10, 0.05, 0.05, 0.10])) == pytest.approx(0.333333, abs=1e-6)
    assert late_attention(np.full(6, 0.2)) == pytest.approx(1.0, abs=1e-6)
    assert half_means(np.array([1.0, 2.0, 3.0])) == (1.0, 2.5)  # the middle token belongs to the second half
    with pytest.raises(ValueError, match="two tokens"):
        half_means(np.array([1.0]))


@given(st.floats(0.0, 0.2), st.floats(0.0, 0.2))
def test_looking_less_at_first_gains_nothing_below_the_floor(first, lower):
    def value(start):
        return late_attention(np.array([start, start, 0.1, 0.1]), floor=0.2)

    assert value(min(first, lower)) == value(first) == pytest.approx(0.5, abs=1e-6)
