"""Repeated ids are told from new ones, as by a set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data_prep.store import SeenIds, database


@given(st.lists(st.text(max_size=3) | st.just("\ud800"), max_size=60))
def test_like_a_set(ids: list[str]):
    plain: set[str] = set()
    with database() as connection:
        seen = SeenIds(connection)
        for row_id in ids:
            assert seen.add(row_id) == (row_id not in plain)
            plain.add(row_id)
