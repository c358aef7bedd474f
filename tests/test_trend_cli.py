"""`sayo trend`: from prepared rows to the figures and the picture."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from sayo.attention.trace import AttentionTrace
from sayo.evaluation.records import Reply
from sayo.trend_cli import response_record, summarise

ROW = {"id": "q1", "solution": "red", "answers": None}
TOKENS = ["<think>", "so", "</think>", "<back>", "I", " look", "</back>", "<think>", "yes", "</think>", "\\boxed{red}"]


def reply(tokens, share, **fields):
    """A response with the given share of the image; a fifth of each row is prefix."""
    ends = [0, *np.cumsum([len(token) for token in tokens]).tolist()]
    offsets = list(pairwise(ends))
    masses = {"image": np.array([[0.0, *share]]) * 0.8, "prefix": np.full((1, len(share) + 1), 0.2)}
    trace = AttentionTrace(masses, dict.fromkeys(masses, 1.0), np.zeros(len(share)), (0,))
    return Reply("".join(tokens), length=len(share), trace=trace, offsets=offsets, **fields)


def test_a_response_that_looks_back():
    share = np.array([0.1] * 4 + [0.3, 0.3] + [0.1] * 5)
    record, trace = response_record(ROW, reply(TOKENS, share), window=20)
    assert trace is not None and record["spans"] == [(4, 6)] and record["correct"] == 1.0 and record["strict"]
    assert record["lift"] == pytest.approx(3.0)
    assert record["image_share"] == pytest.approx(share.tolist())


def test_summary():
    with_back, _ = response_record(ROW, reply(TOKENS, [0.1] * 4 + [0.3] * 2 + [0.1] * 5), 20)
    without, _ = response_record(ROW, reply(["I "] * 20, [0.5] * 10 + [0.1] * 10), 20)
    failed, trace = response_record(ROW, Reply(error="processor", message="broken"), 20)
    summary = summarise([with_back, without, failed])
    assert trace is None and summary["failed"] == 1 and summary["responses"] == 2
    assert (summary["back_rate"], summary["strict_rate"], summary["accuracy"]) == (0.5, 0.5, 0.5)
    assert (summary["accuracy_with_back"], summary["accuracy_without_back"]) == (1.0, 0.0)
    assert summary["lift"] == pytest.approx(3.0) and summary["responses_of_ten_tokens"] == 2
    assert summary["image_share_by_tenth"][0] == pytest.approx((0.1 + 0.5) / 2)
    assert summarise([failed])["back_rate"] is None


def test_command(toy, tmp_path, sayo_command):
    words = (
        "trend",
        toy.policy,
        "--data",
        toy.prepared,
        "--limit",
        3,
        "--max-new-tokens",
        12,
        "--out",
        tmp_path / "t",
    )
    result = sayo_command(*words, "--user-suffix", "semantic-back", "--num-samples", 2, "--temperature", 1)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "t/trend.json").read_text())
    assert found["summary"]["responses"] == 6 and len(found["responses"]) == 6
    assert all(0 < value < 1 for response in found["responses"] for value in response["image_share"])
    assert Image.open(tmp_path / "t/trend.png").size[0] > 500
    result = sayo_command(*words, "--user-suffix", "semantic")
    assert result.exit_code == 2 and "semantic-back, solution-back" in result.output
