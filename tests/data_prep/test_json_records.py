"""Records are read one by one, whatever the place where a block of the file ends."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import json_records
from data_prep.examples import PrepareError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    records=st.dictionaries(st.text(), VALUES, max_size=5), block=st.integers(1, 40), indent=st.sampled_from([None, 1])
)
def test_any_object_is_read_back(tmp_path_factory, records: dict, block: int, indent: int | None):
    path = tmp_path_factory.getbasetemp() / "records.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_records, "_CHUNK", block)
        assert list(json_records.iter_records(path)) == list(records.items())


def test_both_records_with_one_key_are_seen(tmp_path: Path):
    path = tmp_path / "records.json"
    path.write_text('{"a": 1, "a": 2}')
    assert list(json_records.iter_records(path)) == [("a", 1), ("a", 2)]


def test_nan_is_left_for_the_source_to_judge(tmp_path: Path):
    path = tmp_path / "records.json"
    path.write_text('[{"x": NaN}]')
    ((key, record),) = json_records.iter_records(path)
    assert key is None
    assert math.isnan(record["x"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "12",
        '"text"',
        '{"a": 1',
        '{"a": [1, 2',
        '{"a" 1}',
        "{1: 2}",
        '{"a": 1} x',
        '{"a": 1,}',
        "[1 2]",
        '{"a": tru}',
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(PrepareError, match=r"broken\.json is not a usable JSON file"):
        list(json_records.iter_records(path))


def test_other_encodings_are_named(tmp_path: Path):
    path = tmp_path / "latin.json"
    path.write_bytes('{"a": "café"}'.encode("latin-1"))
    with pytest.raises(PrepareError, match="not UTF-8"):
        list(json_records.iter_records(path))


@given(
    images=st.lists(VALUES, max_size=4),
    annotations=st.lists(VALUES, max_size=4),
    info=VALUES,
    block=st.integers(1, 30),
)
def test_lists_of_a_coco_file_are_read_one_by_one(tmp_path_factory, images, annotations, info, block: int):
    path = tmp_path_factory.getbasetemp() / "members.json"
    path.write_text(json.dumps({"info": {"x": info}, "images": images, "annotations": annotations}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_records, "_CHUNK", block)
        found = list(json_records.iter_members(path))
    expected = [("info", {"x": info}), *(("images", one) for one in images)]
    assert [entry[:2] for entry in found] == [*expected, *(("annotations", one) for one in annotations)]
    assert all(json.loads(text) == value for _, value, text in found)


def test_counting_sees_every_byte(tmp_path: Path):
    path = tmp_path / "records.json"
    digests = set()
    for text in ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', '{"a": 1, "b": 3} ', '\ufeff{"a": 1, "b": 3}'):
        path.write_text(text, encoding="utf-8")
        count, digest = json_records.count_and_digest([path])
        assert count == 2
        assert digest == json_records.digest_of([path])
        digests.add(digest)
    assert len(digests) == 4


def test_an_integer_of_thousands_of_digits_is_a_broken_file(tmp_path: Path):
    path = tmp_path / "records.json"
    path.write_text('{"a": ' + "1" * 5000 + "}")
    with pytest.raises(PrepareError, match="not a usable JSON file"):
        list(json_records.iter_records(path))
