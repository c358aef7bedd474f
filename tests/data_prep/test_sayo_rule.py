"""The script behind the README's table: the release's rule as described, and what it costs."""

import json

import pytest

from benchmarks.gqa_objects import SAMPLES, compare, release_pick


@pytest.mark.parametrize(
    ("text", "pick"),
    [
        ("select: cup (1)->query: color [0]", "1"),
        ("select: cup (1)->relate: _,on,s (2) [0]", "2"),
        ("select: cup (1)->relate: _,on,s (2) [0]->relate: _,on,s (3) [1]", "1"),  # the first of three
        ("select: shark (-)->exist: ? [0]", None),
        ("select: scene->query: place [0]", None),
    ],
)
def test_release_rule_picks_as_described(text: str, pick: str | None):
    assert release_pick({"semanticStr": text}) == pick


def test_the_release_picks_wrong_objects_and_drops_questions_that_we_keep():
    rows = compare(json.loads(SAMPLES.read_text()))
    table = {row["GQA questions"]: (row["SAYO release"], row["sayo"]) for row in rows}
    assert table["questions kept"][1] == 33 and table["dropped"][0] > 0
    release, ours = table["answer annotated, wrong object"]
    assert release > 0 == ours
