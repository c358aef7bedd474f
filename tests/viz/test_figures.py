"""Pictures for papers, drift over a response, and the commands that make them."""

import base64
import dataclasses
import io
import re
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viz.conftest import synthetic_look

from sayo.attention import AttentionTrace
from sayo.errors import SayoError
from sayo.viz.before_after import caption, first_mistakes, named_answer, save_before_after
from sayo.viz.figures import save_looks
from sayo.viz.trend import Response, drift, drift_width

PICTURES = re.compile(r'<img src="data:image/png;base64,([^"]+)"')


def trace(region: float | list, image: float, length: int) -> AttentionTrace:
    masses = {"region": np.full((2, length + 1), region), "image": np.full((2, length + 1), image)}
    return AttentionTrace(masses, {"region": 2.0, "image": 16.0}, np.ones(length), (0, 1))


def colours(path) -> int:
    return len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0))


def test_drift_is_the_mean_over_the_responses_that_last() -> None:
    curves = drift([trace(0.1, 0.4, 6)] * 5 + [trace(0.2, 0.4, 3)] * 5)
    np.testing.assert_allclose(curves["image"][:, :2], [[token, 0.4] for token in range(1, 7)])
    # 0.1 / 2 over 0.4 / 16 is 2, and 4 for the short ones, which end after three tokens
    np.testing.assert_allclose(curves["region"][:, 1], [3, 3, 3, 2, 2, 2])
    half = 1.96 * np.std([2] * 5 + [4] * 5, ddof=1) / np.sqrt(10)
    np.testing.assert_allclose(curves["region"][:, 2], [half, half, half, 0, 0, 0], atol=1e-12)
    with pytest.raises(SayoError, match="ask more questions"):
        drift([trace(0.1, 0.4, 3)] * 2)


def test_drift_of_several_tokens_per_point() -> None:
    rising = trace([token / 100 for token in range(1, 8)], 0.4, 6)
    # tokens 1 to 4 are read at 0.01 to 0.04 (mean 0.025), tokens 5 and 6 at 0.05 and 0.06; / 2 over 0.4 / 16
    np.testing.assert_allclose(drift([rising] * 5, width=4)["region"], [[2.5, 0.5, 0], [6.5, 1.1, 0]], atol=1e-9)
    assert drift_width([rising], most=20) == 1 and drift_width([rising], most=4) == 2


def test_long_hostile_responses_and_views_are_drawn(tmp_path) -> None:
    look = synthetic_look(tokens=400, grid=(6, 4), layers=2, views=2)
    tokens = ["$x^", "\n\n", "漢字", "</script>", "\\frac", *look.tokens[5:]]
    assert colours(save_looks({"": dataclasses.replace(look, tokens=tokens)}, tmp_path / "look.png", dpi=60)) > 100


@pytest.fixture
def look_command(toy, tmp_path, sayo_command):
    """`sayo look` at a picture of the toy world, with further options; page in `x.html`."""
    words = (toy.policy, next((toy.world / "images").glob("*.png")), "What color is the disc?", "--max-new-tokens", 4)
    return partial(sayo_command, "look", *words, "--out", tmp_path / "new/x.html")


def test_a_question_to_two_models_with_and_without_its_region(look_command, toy, tmp_path) -> None:
    """Four answers on a page and in a picture; a blanked picture is flat where the box is."""
    twin = tmp_path / "twin"
    twin.symlink_to(toy.policy)
    files = ("--png", tmp_path / "b/look.png", "--layers", "0,last")
    result = look_command("--box", "8,8,40,40", "--blank", "--beside", twin, *files)
    assert result.exit_code == 0 and "MB" in result.output, result.output
    page = (tmp_path / "new/x.html").read_text()
    labels = [f"{name}{what}" for name in (toy.policy.name, "twin") for what in ("", ", region blanked")]
    assert re.findall(r"<h2>(.*?)</h2>", page)[::2] == labels and re.search(r'"layers": \[0, [1-9]\]', page)
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in PICTURES.findall(page)]
    flat = [len(np.unique(one[8:40, 8:40].reshape(-1, one.shape[2]), axis=0)) == 1 for one in pictures]
    assert flat == [False, True, False, True] and colours(tmp_path / "b/look.png") > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--box", "1,2,3"), "is not x1,y1,x2,y2"),
        (("--box", "4:1,1,9,9"), "image 4"),
        (("--layers", "middle"), "Unknown layer spec"),
        (("--blank",), "--box"),
        (("--image", "broken.png"), "broken.png"),
        (("--image", "thin.png"), "aspect ratio"),
    ],
)
def test_the_command_names_mistakes(look_command, tmp_path, monkeypatch, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.png").write_bytes(b"not a picture")
    Image.new("RGB", (900, 3)).save("thin.png")
    result = look_command(*words)
    assert result.exit_code == 2 and message in result.output, result.output
    assert not Path("new").exists()


def test_figures_of_two_checkpoints(toy, tmp_path, sayo_command) -> None:
    words = ("--data", toy.prepared, "--num-questions", 6, "--max-new-tokens", 8, "--out", tmp_path)
    result = sayo_command("figures", toy.policy, toy.policy, *words)
    assert result.exit_code == 0, result.output
    assert colours(tmp_path / "drift.png") > 20
    assert "wrongly before" in result.output  # an untrained policy answers nothing


def test_first_mistakes_are_drawn_where_the_answer_is_named(tmp_path) -> None:
    """The last mention before the answer itself; a response without an answer, or a right one, is no mistake."""
    row = {"solution": "blue", "answers": None, "prompt": [{"role": "user", "content": "What color is it?"}]}

    def respond(text: str) -> Response:
        words = re.findall(r"\S+\s*", text)
        ends = np.cumsum([0, *map(len, words)]).tolist()
        seen = trace([index / 100 for index in range(len(words) + 1)], 0.4, len(words))
        return Response(row, text, list(pairwise(ends)), seen)

    wrong = named_answer(respond("Not red : it holds red. <answer> red </answer>"))
    right = named_answer(respond("Tired of <answer> blue </answer>"))
    assert wrong == ("red", 5, False, pytest.approx(0.05)) and right == ("blue", 3, True, pytest.approx(0.03))
    assert named_answer(respond("It is red.")) is None
    before, after = [right, None, wrong, wrong], [right, wrong, right, wrong]
    assert first_mistakes(before, after, count=1) == [2]
    assert caption(before, after) == (
        "Mean of 4 held-out questions: before: 4.3% on the target as the answer is named, 33% right; "
        "after: 4.0% on the target as the answer is named, 50% right."
    )
    looks = [synthetic_look(tokens=8, grid=(6, 4), layers=2, views=views) for views in (1, 2)]
    path = save_before_after(
        [[(look, wrong), (look, right)] for look in looks], "A caption.", tmp_path / "a/pairs.png"
    )
    assert colours(path) > 100
