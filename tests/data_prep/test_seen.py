"""Repeated ids are found, however many there are and however they come."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from data_prep.seen import SeenIds


@given(st.lists(st.lists(st.text(max_size=3), max_size=20), max_size=12))
def test_like_a_set(batches: list[list[str]]):
    seen, plain = SeenIds(), set()
    for batch in batches:
        expected = []
        for one in batch:
            expected.append(one in plain)
            plain.add(one)
        assert seen.check(batch) == expected


def test_many_ids_take_eight_bytes_each():
    seen = SeenIds()
    for start in range(0, 200_000, 2000):
        assert not any(seen.check([str(number) for number in range(start, start + 2000)]))
    numbers = random.Random(0).sample(range(400_000), 2000)
    assert seen.check([str(number) for number in numbers]) == [number < 200_000 for number in numbers]
    assert sum(run.nbytes for run in seen._runs) < 9 * 202_000
    assert len(seen._runs) < 20
