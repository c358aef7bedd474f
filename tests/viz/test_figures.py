"""Pictures for papers, drift over a response, and the commands that make them."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image
from viz.conftest import synthetic_look

from sayo.attention import AttentionTrace
from sayo.errors import SayoError
from sayo.viz.figures import save_looks
from sayo.viz.trend import drift, drift_width, save_drift


def trace(region: float, image: float, length: int) -> AttentionTrace:
    masses = {"region": np.full((2, length + 1), region), "image": np.full((2, length + 1), image)}
    return AttentionTrace(masses, {"region": 2.0, "image": 16.0}, np.ones(length), (0, 1))


def colours(path) -> int:
    return len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0))


def test_drift_is_the_mean_over_the_responses_that_last() -> None:
    traces = [trace(0.1, 0.4, 6) for _ in range(5)] + [trace(0.2, 0.4, 3) for _ in range(5)]
    curves = drift(traces)
    np.testing.assert_allclose(curves["image"][:, 1], 0.4)
    np.testing.assert_allclose(curves["image"][:, 0], range(1, 7))
    # 0.1 / 2 over 0.4 / 16 is 2, and 4 for the short ones, which end after three tokens
    np.testing.assert_allclose(curves["region"][:, 1], [3, 3, 3, 2, 2, 2])
    half = 1.96 * np.std([2] * 5 + [4] * 5, ddof=1) / np.sqrt(10)
    np.testing.assert_allclose(curves["region"][:, 2], [half, half, half, 0, 0, 0], atol=1e-12)


def test_drift_of_several_tokens_per_point() -> None:
    masses = {"region": np.tile(np.arange(1.0, 8.0), (2, 1)) / 100, "image": np.full((2, 7), 0.4)}
    rising = AttentionTrace(masses, {"region": 2.0, "image": 16.0}, np.ones(6), (0, 1))
    curve = drift([rising] * 5, width=4)["region"]
    # tokens 1 to 4 are read at 0.01 to 0.04 (mean 0.025), tokens 5 and 6 at 0.05 and 0.06; / 2 over 0.4 / 16
    np.testing.assert_allclose(curve, [[2.5, 0.5, 0], [6.5, 1.1, 0]], atol=1e-9)
    assert drift_width([rising], most=20) == 1 and drift_width([rising], most=4) == 2


def test_drift_of_too_few_responses_is_an_error() -> None:
    with pytest.raises(SayoError, match="ask more questions"):
        drift([trace(0.1, 0.4, 3)] * 2)


def test_pictures_are_drawn(look, tmp_path) -> None:
    assert colours(save_looks({"": look}, tmp_path / "look.png", dpi=60)) > 100
    assert colours(save_looks({"before": look, "after": look}, tmp_path / "both.png", dpi=60)) > 100
    curves = {"before": drift([trace(0.1, 0.4, 6)] * 5), "after": drift([trace(0.2, 0.5, 6)] * 5)}
    assert colours(save_drift(curves, tmp_path / "drift.png", dpi=60)) > 20


def test_long_hostile_responses_and_views_are_drawn(tmp_path) -> None:
    look = synthetic_look(tokens=400, grid=(6, 4), layers=2, views=2)
    tokens = ["$x^", "\n\n", "漢字", "</script>", "\\frac", *look.tokens[5:]]
    assert colours(save_looks({"": dataclasses.replace(look, tokens=tokens)}, tmp_path / "look.png", dpi=60)) > 100


def test_the_command_writes_page_and_picture(toy, tmp_path, sayo_command) -> None:
    image = next((toy.world / "images").glob("*.png"))
    words = (toy.policy, image, "What color is the disc?", "--box", "8,8,40,40", "--response", "It is red.")
    files = ("--out", tmp_path / "a/look.html", "--png", tmp_path / "b/look.png", "--layers", "0,last")
    result = sayo_command("look", *words, *files)
    assert result.exit_code == 0, result.output
    assert "MB" in result.output
    assert re.search(r'"layers": \[0, [1-9]\]', (tmp_path / "a/look.html").read_text())
    assert colours(tmp_path / "b/look.png") > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--box", "1,2,3"), "is not x1,y1,x2,y2"),
        (("--box", "9,9,1,1"), "reversed"),
        (("--layers", "12"), "out of range"),
        (("--layers", "middle"), "Unknown layer spec"),
        (("--box", "4:1,1,9,9"), "image 4"),
    ],
)
def test_the_command_names_mistakes(toy, tmp_path, sayo_command, words: tuple, message: str) -> None:
    image = next((toy.world / "images").glob("*.png"))
    result = sayo_command("look", toy.policy, image, "Why?", "--response", "x", "--out", tmp_path / "x.html", *words)
    assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "x.html").exists()


def test_a_file_that_is_no_picture_is_named(toy, tmp_path, sayo_command) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    result = sayo_command("look", toy.policy, tmp_path / "broken.png", "Why?", "--out", tmp_path / "x.html")
    assert result.exit_code == 2 and "broken.png" in result.output


def test_figures_of_two_checkpoints(toy, tmp_path, sayo_command) -> None:
    words = ("--data", toy.prepared, "--num-questions", 6, "--max-new-tokens", 8, "--out", tmp_path)
    result = sayo_command("figures", toy.policy, toy.policy, *words)
    assert result.exit_code == 0, result.output
    assert colours(tmp_path / "before_after.png") > 100 and colours(tmp_path / "drift.png") > 20
