"""Which file an image name stands for, and which names are refused."""

from pathlib import Path

import pytest

from data_prep.examples import RejectedError
from data_prep.images import find_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/ (itself reached by a link) with a sub-folder, links that stay inside and links that lead out."""
    (tmp_path / "disk" / "images" / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "images").symlink_to(tmp_path / "disk" / "images")
    folder = tmp_path / "images"
    for path in ("images/a.jpg", "images/sub/b.png", "outside/c.jpg", "disk/d.jpg"):
        (tmp_path / path).write_bytes(b"x")
    (folder / "inner.jpg").symlink_to(folder / "sub" / "b.png")
    (folder / "again").symlink_to(folder / "sub")
    (folder / "out.jpg").symlink_to(tmp_path / "outside" / "c.jpg")
    (folder / "away").symlink_to(tmp_path / "outside")
    (folder / "sub" / "up").symlink_to(tmp_path / "disk")
    (folder / "lost.jpg").symlink_to(tmp_path / "nothing.jpg")
    return folder


@pytest.mark.parametrize(
    ("name", "file"),
    [("a", "a.jpg"), ("a.jpg", "a.jpg"), ("./a.jpg", "a.jpg"), ("sub/b", "sub/b.png"), ("sub//b.png", "sub/b.png"),
     ("inner", "inner.jpg"), ("again/b.png", "again/b.png")],
)  # fmt: skip
def test_names_inside(folder: Path, name: str, file: str):
    assert find_image(folder, name) == folder / file


@pytest.mark.parametrize(
    ("name", "reason"),
    [*((name, "path_outside_image_dir") for name in ("out", "away/c", "away/c.jpg", "sub/up/d.jpg", "sub/../a.jpg",
                                                     "../disk/d.jpg", "/etc/hostname", "", "a\0.jpg", "sub\\b.png")),
     *((name, "missing_image") for name in ("b", "sub", "lost", ".", "a.jpg/", "x" * 5000, "\ud800"))],
)  # fmt: skip
def test_names_that_are_refused(folder: Path, name: str, reason: str):
    with pytest.raises(RejectedError) as error:
        find_image(folder, name)
    assert error.value.reason == reason
