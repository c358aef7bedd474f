"""Look-Back's attention trend over responses: records, their summary, and a picture."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from sayo.attention.trace import AttentionTrace
from sayo.viz.trend import Response, save_trend, trend_record, trend_summary


def make_trace(masses: dict[str, np.ndarray]) -> AttentionTrace:
    """`masses`: group -> (L, T + 1)."""
    num_layers, num_rows = masses["image"].shape
    return AttentionTrace(masses, dict.fromkeys(masses, 1.0), np.zeros(num_rows - 1), tuple(range(num_layers)))


def test_the_plot_is_a_picture_that_shows_the_span(tmp_path):
    shares = np.full((2, 51), 0.1)
    trace = make_trace({"prefix": np.full((2, 51), 0.5), "image": shares, "question": shares, "response": shares})
    bare, back = {"id": "$costs {2}", "spans": [], "lift": None}, {"spans": [(10, 20)], "lift": 1.5, "control": 0.5}
    bare_picture = save_trend([(bare, trace)], tmp_path / "bare.png")
    shaded = save_trend([({**bare, **back}, trace), (bare, trace)], tmp_path / "new/shaded.png")
    pixels = [np.asarray(Image.open(path).convert("RGB"), dtype=int) for path in (bare_picture, shaded)]
    orange = [((image[..., 0] > 240) & (image[..., 2] < 210) & (image[..., 1] > 200)).sum() for image in pixels]
    assert orange[1] > 5000 > orange[0]
    assert pixels[1].shape[0] > pixels[0].shape[0]


TOKENS = ["<think>", "so", "</think>", "<back>", "I", " look", "</back>", "<think>", "yes", "</think>", "\\boxed{red}"]


def response(tokens, share):
    """A response with the given share of the image; a fifth of each row is prefix."""
    ends = [0, *np.cumsum([len(token) for token in tokens]).tolist()]
    masses = {"image": np.array([[0.0, *share]]) * 0.8, "prefix": np.full((1, len(share) + 1), 0.2)}
    row = {"id": "q1", "solution": "red", "answers": None}
    return Response(row, "".join(tokens), list(pairwise(ends)), make_trace(masses))


def test_records_and_their_summary():
    share = np.array([0.1] * 4 + [0.3, 0.3] + [0.1] * 5)
    with_back = trend_record(response(TOKENS, share))
    assert with_back["spans"] == [(4, 6)] and with_back["correct"] == 1.0 and with_back["strict"]
    assert with_back["lift"] == pytest.approx(3.0)
    assert with_back["image_share"] == pytest.approx(share.tolist())
    without = trend_record(response(["I "] * 20, [0.5] * 10 + [0.1] * 10))
    empty = trend_record(response([], []))
    assert empty["spans"] == empty["image_share"] == [] and empty["lift"] is None
    summary = trend_summary([with_back, without])
    assert (summary["back_rate"], summary["strict_rate"], summary["accuracy"]) == (0.5, 0.5, 0.5)
    assert (summary["accuracy_with_back"], summary["accuracy_without_back"]) == (1.0, 0.0)
    assert summary["lift"] == pytest.approx(3.0)
    assert summary["image_share_by_tenth"][0] == pytest.approx((0.1 + 0.5) / 2)


def test_command(toy, tmp_path, sayo_command):
    options = ("--data", toy.prepared, "--limit", 3, "--max-new-tokens", 12, "--out", tmp_path / "t")
    result = sayo_command("trend", toy.policy, *options, "--temperature", 1, "--user-suffix", "semantic-back")
    assert result.exit_code == 0, result.output
    assert re.search(r"responses +3\n", result.output) and "{" not in result.output
    written = json.loads((tmp_path / "t/trend.json").read_text())
    assert written["summary"]["responses"] == len(written["responses"]) == 3
    assert all(0 < value < 1 for record in written["responses"] for value in record["image_share"])
    assert Image.open(tmp_path / "t/trend.png").size[0] > 500
    result = sayo_command("trend", toy.policy, *options, "--user-suffix", "semantic")
    assert result.exit_code == 2 and "semantic-back, solution-back" in result.output
