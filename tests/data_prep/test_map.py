"""`sayo map`: the tokens of another processor on rows that are there already."""

import json

import pyarrow.parquet as pq
import pytest

from tests.data_prep.conftest import SAMPLES


def mapped(gqa, processor, out: str, *more, data="plain"):
    return gqa.run("map", gqa.root / data, "--processor", processor, "--out", gqa.root / out, *more)


def test_prepare_then_map_is_prepare_with_processor(make_gqa, processor_dir):
    gqa = make_gqa(7)
    (gqa.images / "3.jpg").unlink()
    gqa.prepare("--rows-per-shard", "3", out="plain")
    gqa.prepare("--rows-per-shard", "3", "--processor", str(processor_dir), out="direct")
    assert mapped(gqa, processor_dir, "mapped").exit_code == 0
    assert gqa.contents("mapped") == gqa.contents("direct")
    assert mapped(gqa, SAMPLES / "qwen2_5_vl", "other", data="direct").exit_code == 0  # replaces those that are there
    other = gqa.rows("other")
    assert {row["num_visual_tokens"][0] for row in other} == {11 * 7}
    assert mapped(gqa, processor_dir, "back", data="other").exit_code == 0
    assert gqa.contents("back") == gqa.contents("direct")


def test_two_processes_make_the_same_bytes_and_a_second_run_makes_nothing(make_gqa, processor_dir):
    gqa = make_gqa(9)
    gqa.prepare("--rows-per-shard", "2", out="plain")
    assert mapped(gqa, processor_dir, "one").exit_code == 0
    first = gqa.root / "one" / "data" / "train-00001-of-00005.parquet"
    whole = gqa.contents("one")
    first.unlink()
    assert mapped(gqa, processor_dir, "one", "--num-proc", "2").exit_code == 0
    assert gqa.contents("one") == whole
    stamp = first.stat().st_mtime_ns
    assert mapped(gqa, processor_dir, "one").exit_code == 0
    assert first.stat().st_mtime_ns == stamp
    result = mapped(gqa, processor_dir, "one", "--hard")
    assert (result.exit_code, "--soft: True there, False now" in result.output) == (2, True)


def test_rows_that_the_processor_refuses_are_rejected(make_gqa, processor_dir):
    gqa = make_gqa(2)
    gqa.add(2, (10000, 49))
    gqa.graphs["2"]["objects"]["12"].update(x=0, y=0, h=20)
    (gqa.images / "1.jpg").unlink()
    gqa.prepare(out="plain")
    assert mapped(gqa, processor_dir, "mapped").exit_code == 0
    summary = gqa.summary("mapped")
    assert (summary["read"], summary["kept"]) == (3, 1)
    assert summary["rejected_by_reason"] == {"image_refused_by_processor": 1, "missing_image": 1}


def test_unusable_input_is_one_line(make_gqa, processor_dir):
    gqa = make_gqa(1)
    gqa.prepare(out="plain")
    for arguments, message in (
        ((gqa.root / "none", "--out", gqa.root / "x"), "holds no prepared data"),
        ((gqa.root / "plain", "--out", gqa.root / "plain"), "is the input"),
        ((gqa.root / "plain", "--out", gqa.root / "x", "--threshold", "2"), "--threshold"),
        ((gqa.root / "plain", "--out", gqa.root / "x", "--num-proc", "0"), "--num-proc"),
    ):
        result = gqa.run("map", *arguments, "--processor", processor_dir)
        assert (result.exit_code, message in result.output) == (2, True), result.output


@pytest.mark.parametrize("account", [{"settings": {"--split": "train"}, "read": 1, "rejects": []}, [], None])
def test_data_of_an_older_version_must_be_prepared_again(make_gqa, processor_dir, account):
    gqa = make_gqa(1)
    gqa.prepare(out="plain")
    (path,) = (gqa.root / "plain" / "data").iterdir()
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"sayo_prepare": json.dumps(account)}), path)
    for result in (mapped(gqa, processor_dir, "x"), gqa.run("mix", gqa.root / "plain", "--out", gqa.root / "y")):
        assert (result.exit_code, "prepare this data set again" in " ".join(result.output.split())) == (2, True)
