"""Records are read one by one, whatever the place where a block of the file ends."""

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


def test_both_records_with_one_key_are_seen_and_nan_is_left_for_the_source_to_judge(tmp_path: Path):
    path = tmp_path / "records.json"
    path.write_text('{"a": 1, "a": NaN}')
    (_, first), (key, second) = json_records.iter_records(path)
    assert (first, key, math.isnan(second)) == (1, "a", True)
    path.write_text("\ufeff[[1]]", encoding="utf-8")
    assert list(json_records.iter_records(path)) == [(None, [1])]


BROKEN = ["", "  \n", "12", '"text"', '{"a": 1', '{"a": [1, 2', '{"a" 1}', "{1: 2}", '{"a": 1} x', '{"a": 1,}',
          "[1 2]", '{"a": tru}', '{"a": ' + "1" * 5000 + "}", '{"not UTF-8": "café"}']  # fmt: skip


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: repr(text[:12]))
def test_broken_files_are_named(tmp_path: Path, text: str):
    path = tmp_path / "broken.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(PrepareError, match=r"broken\.json is not a usable JSON file"):
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
        members = list(json_records.iter_members(path))
    expected = [("info", {"x": info}), *(("images", value) for value in images)]
    assert [entry[:2] for entry in members] == [*expected, *(("annotations", value) for value in annotations)]
    assert all(json.loads(text) == value for _, value, text in members)
