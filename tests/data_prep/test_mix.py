"""`sayo mix`: counts, shared pictures, splits by picture, and a card that says what was drawn."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from datasets import load_dataset


def part(bench, name: str, pictures: list[str], questions=1, more=(), license="CC0-1.0") -> Path:
    """A prepared part with `questions` about each of the pictures."""
    lines = []
    for picture in pictures:
        if not (bench.images / picture).exists():
            bench.picture(picture, (64, 48))
        lines += [
            {"id": f"{name}-{picture}-{number}", "image": picture, "question": f"{name} {number}?", "answer": "x",
             "regions": [{"box": [2, 2, 20, 20]}], "license": license}
            for number in range(questions)
        ]  # fmt: skip
    file = bench.lines(*lines, name=f"{name}.jsonl")
    result = bench.prepare("jsonl", "--questions", file, "--images", bench.images, *more, out=name)
    assert result.exit_code == 0, result.output
    return bench.root / name


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}.jpg" for number in range(count)]


def mix(bench, *arguments, out: str = "mix"):
    return bench.run("mix", *arguments, "--out", bench.root / out)


def test_counts_are_exact_and_the_parts_interleaved(bench):
    a, b = part(bench, "a", names("a", 40), 2), part(bench, "b", names("b", 30))
    assert mix(bench, f"{a}:40", f"{b}:10").exit_code == 0
    ids = [row["id"][0] for row in bench.rows("mix")]
    assert Counter(ids) == {"a": 40, "b": 10}
    assert all(Counter(ids[start : start + 10]) == {"a": 8, "b": 2} for start in range(0, 50, 10))
    assert mix(bench, f"{a}:40", f"{b}:10", "--seed", "1", out="other").exit_code == 0
    assert {row["id"] for row in bench.rows("other")} != {row["id"] for row in bench.rows("mix")}
    assert mix(bench, f"{a}:40", f"{b}:10", out="again").exit_code == 0
    assert bench.contents("mix") == bench.contents("again")


def test_a_picture_comes_from_one_part_only(bench):
    """b0 and b1 are byte copies of a0 and a1 under other names; the COCO pictures are one by their ids."""
    a = part(bench, "a", [*names("a", 4), "COCO_train2014_000000000007.jpg"], 2)
    for number in range(2):
        (bench.images / f"b{number}.jpg").write_bytes((bench.images / f"a{number}.jpg").read_bytes())
    b = part(bench, "b", [*names("b", 5), "000000000007.jpg"])
    assert mix(bench, a, b).exit_code == 0
    assert {row["id"] for row in bench.rows("mix") if row["id"][0] == "b"} == {f"b-b{n}.jpg-0" for n in (2, 3, 4)}
    summary = bench.summary("mix")
    assert (summary["kept"], summary["rejected_by_reason"]) == (13, {"picture_taken": 3})
    assert {row["id"] for row in bench.rejects("mix")} == {f"b-{name}.jpg-0" for name in ("b0", "b1", "000000000007")}
    result = mix(bench, a, f"{b}:4", out="more")
    assert (result.exit_code, "ask for at most 3" in result.output) == (2, True)
    assert mix(bench, b, a, out="turned").exit_code == 0
    assert Counter(row["id"][0] for row in bench.rows("turned")) == {"b": 6, "a": 4}


def test_gqa_pictures_are_known_as_cocos_by_image_data(bench, make_gqa):
    gqa = make_gqa(3, bench.root / "gqa")
    assert gqa.prepare().exit_code == 0
    coco = part(bench, "coco", ["000000000501.jpg", "000000000999.jpg"])
    data = bench.json([{"image_id": 1, "coco_id": 501}, {"image_id": 2, "coco_id": None}], "image_data.json")
    more = ["--visual-genome-images", data]
    assert mix(bench, gqa.root / "out", coco, *more).exit_code == 0
    assert {row["id"] for row in bench.rows("mix")} == {"q0", "q1", "q2", "coco-000000000999.jpg-0"}


def test_excluded_pictures_are_not_drawn(bench):
    a, benchmark = part(bench, "a", names("a", 6)), part(bench, "benchmark", names("a", 2))
    assert mix(bench, a, "--exclude", benchmark).exit_code == 0
    assert {row["id"] for row in bench.rows("mix")} == {f"a-a{n}.jpg-0" for n in (2, 3, 4, 5)}


def test_splits_are_by_picture(bench, tmp_path: Path):
    a = part(bench, "a", names("a", 60), 3)
    assert mix(bench, a, "--validation", "0.3", "--rows-per-shard", "50").exit_code == 0
    splits = defaultdict(set)
    for row in bench.rows("mix"):
        splits[row["images"][0]["path"]].add(row["split"])
    assert all(len(one) == 1 for one in splits.values())
    held = sum(one == {"validation"} for one in splits.values())
    assert 8 <= held <= 28
    sizes = {split: len(load_dataset(str(bench.root / "mix"), split=split, cache_dir=str(tmp_path / "cache")))
             for split in ("train", "validation")}  # fmt: skip
    assert sizes == {"train": 180 - 3 * held, "validation": 3 * held}


def test_card_and_summary_say_what_was_drawn(bench):
    a, b = part(bench, "a", names("a", 5)), part(bench, "b", names("b", 5), license="CC-BY-4.0")
    assert mix(bench, f"{a}:4", f"{b}:2").exit_code == 0
    summary = bench.summary("mix")
    assert summary["licenses"] == {"CC-BY-4.0": 2, "CC0-1.0": 4}
    assert summary["region_area"] == {"5 to 20 %": 6}
    assert summary["splits"]["train"]["settings"]["parts"] == [
        {"part": "a", "rows": 5, "drawn": 4, "shared": 0},
        {"part": "b", "rows": 5, "drawn": 2, "shared": 0},
    ]
    card = (bench.root / "mix" / "README.md").read_text()
    for line in ("| a | 5 | 4 | 0 |", "| jsonl: CC-BY-4.0 | 2 |", "| jsonl: CC0-1.0 | 4 |", "| 1 | 6 |"):
        assert line in card


def test_tokens_of_different_processors_are_not_mixed(bench, processor_dir):
    a = part(bench, "a", names("a", 2), more=("--processor", processor_dir))
    b = part(bench, "b", names("b", 2))
    result = mix(bench, a, b)
    assert result.exit_code == 2
    assert "sayo map" in result.output
    assert bench.run("map", b, "--processor", processor_dir, "--out", bench.root / "b2").exit_code == 0
    assert mix(bench, a, bench.root / "b2").exit_code == 0


def test_linked_images_are_compared_by_their_contents(bench):
    a = part(bench, "a", names("a", 2), more=("--link-images",))
    assert all(row["images"][0]["bytes"] is None for row in bench.rows("a"))
    (bench.images / "b0.jpg").write_bytes((bench.images / "a0.jpg").read_bytes())
    b = part(bench, "b", names("b", 2))
    assert mix(bench, a, b).exit_code == 0
    assert len(bench.rows("mix")) == 3
    (bench.images / "a1.jpg").unlink()
    result = mix(bench, a, b, out="gone")
    assert (result.exit_code, "which cannot be read" in result.output) == (2, True)


def test_a_stopped_mix_resumes(bench):
    a = part(bench, "a", names("a", 30))
    assert mix(bench, a, "--rows-per-shard", "7").exit_code == 0
    before = bench.contents("mix")
    (bench.root / "mix" / "data" / "train-00002-of-00005.parquet").unlink()
    assert mix(bench, a, "--rows-per-shard", "7").exit_code == 0
    assert bench.contents("mix") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none:5"], "holds no prepared data"),
        (["a:5", "--validation", "1"], "--validation"),
        (["a:5", "--split", "dev"], "there are: train"),
        (["a:5", "--rows-per-shard", "0"], "--rows-per-shard"),
        (["a:50"], "ask for at most 3"),
        (["a", "--visual-genome-images", "none.json"], "visualgenome"),
    ],
)
def test_unusable_options_are_one_line(bench, arguments: list[str], message: str, monkeypatch):
    part(bench, "a", names("a", 3))
    monkeypatch.chdir(bench.root)
    result = mix(bench, *arguments)
    assert (result.exit_code, message in result.output, "Traceback" in result.output) == (2, True, False)
