"""Each bad input is rejected under its own name or kept on purpose, and never costs a sound row."""

import io
import os
import random
import shutil
import zlib
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from PIL import Image

from data_prep import images as image_files
from data_prep.workers import only_writer

CASES = yaml.safe_load(Path(__file__).with_name("input.yaml").read_text())


def photo(size: tuple[int, int] = (320, 200)) -> Image.Image:
    """An image that does not compress to nothing, so that half of its file is half of its pixels."""
    return Image.frombytes("RGB", size, random.Random(0).randbytes(size[0] * size[1] * 3))


def set_box(gqa, **values) -> None:
    gqa.graphs["1"]["objects"]["11"].update(values)


def save(gqa, image: Image.Image, name: str = "1.jpg", **options) -> None:
    (gqa.images / "1.jpg").unlink()
    image.save(gqa.images / name, **options)


def truncate(gqa, kind: str, cut: int | None = None) -> None:
    """Leave half of the file, or all but the last `cut` bytes."""
    data = io.BytesIO()
    photo().save(data, kind)
    (gqa.images / "1.jpg").write_bytes(data.getvalue()[: -(cut or len(data.getvalue()) // 2)])


def link_outside(gqa) -> None:
    outside = gqa.root / "secret.jpg"
    shutil.move(gqa.images / "1.jpg", outside)
    (gqa.images / "1.jpg").symlink_to(outside)


def foreign_shard(root: Path) -> None:
    (root / "out" / "data").mkdir(parents=True)
    (root / "out" / "data" / "train-00000-of-00001.parquet").write_bytes(b"not parquet")


def bomb(gqa) -> None:
    """A PNG header that claims 40000 x 40000 pixels."""
    data = io.BytesIO()
    Image.new("L", (1, 1)).save(data, "PNG")
    header = data.getvalue()
    claim = (40000).to_bytes(4, "big") * 2
    body = b"IHDR" + claim + header[24:29]
    (gqa.images / "1.jpg").write_bytes(header[:12] + body + zlib.crc32(body).to_bytes(4, "big") + header[33:])


def too_few_pixels(gqa) -> None:
    """A PNG whose chunks and checksums are all sound, but whose pixels end half way."""
    data = io.BytesIO()
    photo().save(data, "PNG")
    header = data.getvalue()[:33]  # signature and IHDR
    body = b"IDAT" + zlib.compress(random.Random(0).randbytes(961 * 200))[: 961 * 100]
    body = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    (gqa.images / "1.jpg").write_bytes(header + body + data.getvalue()[-12:])


REJECTED = {
    "missing_image": lambda gqa: (gqa.images / "1.jpg").unlink(),
    "truncated_image": lambda gqa: truncate(gqa, "JPEG"),
    "truncated_image (two bytes)": lambda gqa: truncate(gqa, "JPEG", cut=2),
    "truncated_image (PNG)": lambda gqa: truncate(gqa, "PNG"),
    "truncated_image (PNG without its last chunk)": lambda gqa: truncate(gqa, "PNG", cut=12),
    "truncated_image (PNG with too few pixels)": too_few_pixels,
    "truncated_image (BMP)": lambda gqa: truncate(gqa, "BMP"),
    "unreadable_image (cut WebP)": lambda gqa: truncate(gqa, "WEBP"),
    "unreadable_image (empty)": lambda gqa: (gqa.images / "1.jpg").write_bytes(b""),
    "unreadable_image (text)": lambda gqa: (gqa.images / "1.jpg").write_text("<html>404</html>"),
    "decompression_bomb": bomb,
    "path_outside_image_dir (link)": link_outside,
    "image_size_differs": lambda gqa: save(gqa, photo((100, 100))),
    "object_not_in_graph": lambda gqa: gqa.graphs["1"]["objects"].clear(),
    "no_scene_graph": lambda gqa: gqa.graphs.pop("1"),
    "malformed_record (not an object)": lambda gqa: gqa.questions.update(q1=[1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("case", [*REJECTED, *CASES["rejected"]])
def test_one_bad_row_is_counted_and_the_others_are_kept(make_gqa, case: str):
    gqa, reason = make_gqa(3), case.split(" ")[0]
    if case in REJECTED:
        REJECTED[case](gqa)
    else:
        change, question = CASES["rejected"][case], gqa.questions["q1"]
        set_box(gqa, **change.get("box", {}))
        question.update(change.get("question", {}))
        question.pop(change.get("drop"), None)
    result = gqa.prepare()
    assert result.exit_code == 0, result.output
    summary = gqa.summary()
    assert (summary["read"], summary["kept"], summary["rejected"]) == (3, 2, 1)
    assert summary["rejected_by_reason"] == {reason: 1}
    (reject,) = gqa.rejects()
    assert (reject["id"], reject["reason"], reject["split"]) == ("q1", reason, "train")
    assert reject["detail"]
    assert f"{reason} 1" in result.output


def test_a_rejected_bomb_names_the_size_found(make_gqa, monkeypatch: pytest.MonkeyPatch):
    gqa = make_gqa(2)
    bomb(gqa)
    gqa.prepare()
    assert "1600000000 pixels" in gqa.rejects()[0]["detail"]
    monkeypatch.setattr(image_files.Image, "MAX_IMAGE_PIXELS", 320 * 200 - 1)  # Pillow only warns up to twice it
    gqa.prepare(out="out2")
    assert gqa.rejects("out2")[0]["detail"] == "0.jpg claims 320x200 pixels"


@pytest.mark.parametrize(("mode", "name"), CASES["modes"].values(), ids=CASES["modes"])
def test_every_colour_mode_is_kept_and_loads_as_rgb(make_gqa, mode: str, name: str, tmp_path: Path):
    gqa = make_gqa(2)
    save(gqa, photo().convert("I").convert(mode) if mode == "I;16" else photo().convert(mode), name)
    assert gqa.prepare().exit_code == 0
    assert gqa.summary()["kept"] == 2
    rows = load_dataset(str(gqa.root / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows[1]["images"][0].mode == "RGB"
    assert rows[1]["images"][0].size == (320, 200)


def test_bytes_behind_the_end_of_a_jpeg_are_no_truncation(make_gqa):
    gqa = make_gqa(2)
    path = gqa.images / "1.jpg"
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    gqa.prepare()
    assert gqa.summary()["kept"] == 2


@pytest.mark.parametrize("size", [(1, 1), (10000, 50), (50, 10000)])
def test_extreme_sizes_are_kept(make_gqa, processor_dir: Path, size: tuple[int, int]):
    """10000 / 50 is exactly the aspect of 200 that Qwen's resizing still takes."""
    gqa = make_gqa(1)
    gqa.add(1, size)
    set_box(gqa, x=0, y=0, w=min(40, size[0]), h=min(50, size[1]))
    result = gqa.prepare("--processor", str(processor_dir))
    assert result.exit_code == 0, result.output
    assert gqa.summary()["kept"] == 2


def test_an_aspect_that_the_processor_refuses_is_named(make_gqa, processor_dir: Path):
    gqa = make_gqa(1)
    gqa.add(1, (10000, 49))
    set_box(gqa, x=0, y=0)
    assert gqa.prepare(out="plain").exit_code == 0
    assert gqa.summary("plain")["kept"] == 2  # without a processor nothing speaks against it
    assert gqa.prepare("--processor", str(processor_dir)).exit_code == 0
    assert gqa.summary()["rejected_by_reason"] == {"image_refused_by_processor": 1}
    assert "200" in gqa.rejects()[0]["detail"]


def test_nothing_kept_is_an_error_and_leaves_the_reasons(make_gqa):
    gqa = make_gqa(2)
    for path in gqa.images.iterdir():
        path.rename(path.with_suffix(".gone"))
    result = gqa.prepare()
    assert result.exit_code == 2
    assert "nothing was kept" in result.output and "The first: no file" in " ".join(result.output.split())
    assert gqa.summary()["rejected_by_reason"] == {"missing_image": 2}
    for path in gqa.images.iterdir():
        path.rename(path.with_suffix(".jpg"))
    assert gqa.prepare().exit_code == 0  # the same command again, once the images are there
    assert gqa.summary()["kept"] == 2


def test_a_wrong_image_folder_is_noticed_at_the_first_rows(make_gqa):
    gqa = make_gqa(101)
    for path in gqa.images.iterdir():
        path.rename(path.with_suffix(".gone"))
    result = gqa.prepare()
    assert result.exit_code == 2 and "none of the first 100 questions" in result.output
    assert not list((gqa.root / "out" / "data").iterdir())
    (gqa.images / "99.gone").rename(gqa.images / "99.jpg")
    assert gqa.prepare().exit_code == 0 and gqa.summary()["kept"] == 1


def test_two_commands_do_not_write_into_one_folder(make_gqa):
    gqa = make_gqa(1)
    with only_writer(gqa.root / "out"):
        result = gqa.prepare()
        assert result.exit_code == 2 and "another command is writing into" in result.output
        assert gqa.prepare(out="elsewhere").exit_code == 0
    assert gqa.prepare().exit_code == 0
    assert not list(gqa.root.glob(".*.lock"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "questions.json").write_text("{}"), "no question"),
        (lambda root: (root / "questions.json").write_text(""), "empty"),
        (lambda root: (root / "questions.json").write_text('{"a": {"b"'), "not a usable JSON file"),
        (lambda root: (root / "graphs.json").write_text("[1, 2"), "not a usable JSON file"),
        (lambda root: shutil.rmtree(root / "images"), "is not a folder"),
        (lambda root: (root / "out").write_text(""), "is a file"),
        (lambda root: (root / "out").mkdir() or (root / "out" / "thesis.txt").write_text(""), "holds other files"),
        (foreign_shard, "was not written by"),
    ],
)
def test_unusable_input_is_one_clear_line(make_gqa, spoil, message: str):
    gqa = make_gqa(1)
    gqa.write()
    spoil(gqa.root)
    result = gqa.prepare_written()
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("arguments", "message"), CASES["options"])
def test_unusable_options_are_named(make_gqa, arguments: list[str], message: str, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = make_gqa(1).prepare(*arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file_is_rejected(make_gqa):
    gqa = make_gqa(2)
    (gqa.images / "1.jpg").chmod(0)
    gqa.prepare()
    assert gqa.summary()["rejected_by_reason"] == {"unreadable_image": 1}
