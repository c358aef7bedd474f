"""Records and files of every source that cannot be used: each is named, and costs no sound row."""

import pytest

from data_prep.sources import load_sources
from tests.data_prep import test_benchmark_sources, test_box_sources, test_refcoco

BAD = test_benchmark_sources.BAD | test_box_sources.BAD | test_refcoco.BAD


@pytest.mark.parametrize(
    ("prepare", "sound", "bad", "reason"),
    [(prepare, sound, *case) for prepare, (sound, cases) in BAD.items() for case in cases],
)
def test_bad_records_are_named(bench, prepare, sound: dict, bad, reason: str):
    assert prepare(bench, sound, bad).exit_code == 0
    assert bench.summary()["rejected_by_reason"] == {reason: 1}


@pytest.mark.parametrize("source", load_sources()[0])
def test_missing_files_are_named(bench, source: str):
    options = load_sources()[0][source]["options"]
    required = [name for name, option in options.items() if "default" not in option]
    words = [(f"--{name.replace('_', '-')}", bench.images if name == "images" else "none") for name in required]
    result = bench.prepare(source, *(word for pair in words for word in pair))
    assert (result.exit_code, f"sayo prepare {source} --help" in " ".join(result.output.split())) == (2, True)


@pytest.mark.parametrize(
    ("source", "option", "name", "content", "message"),
    [
        ("coco", "--instances", "instances.json", '{"images": [', "not a usable JSON file"),
        ("coco", "--instances", "instances.json", "[]", "not a usable JSON file"),
        ("coco", "--instances", "instances.json", '{"info": {}}', "no question in what --instances names"),
        ("coco", "--instances", "instances.json", '{"images": {}}', "nothing was kept"),
        ("coco", "--instances", "instances.json", '{"annotations": [1]}', "nothing was kept"),
        ("treebench", "--file", "TreeBench.tsv", "a\tb\n1\t2\n", "lacks the columns index"),
        ("treebench", "--file", "TreeBench.tsv", "", "lacks the columns index"),
        ("treebench", "--file", "TreeBench.tsv", "\xff", "cannot be read at line"),
        ("treebench", "--file", "TreeBench.tsv", "index\timage\n\0\t1\n", "TreeBench.tsv"),
        ("refocus", "--files", "text.parquet", "no parquet", "is not a parquet file"),
    ],
)
def test_other_files_are_one_line(bench, source: str, option: str, name: str, content: str, message: str):
    (bench.root / name).write_bytes(content.encode("latin1"))
    images = ("--images", bench.images) if source == "coco" else ()
    result = bench.prepare(source, option, bench.root / name, *images)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()) and "Traceback" not in result.output
