"""Rewards by part, their share of the gradient, intervals of the evaluations, and which layer tells."""

from __future__ import annotations

import base64
import json
import re
from xml.etree import ElementTree

import numpy as np
from report.pages import page


def test_rewards_have_their_weight_and_share_of_the_gradient(make_run, tmp_path):
    result = page(make_run(full_log=True), out=tmp_path / "report.html")
    state = json.loads((tmp_path / "toy" / "trainer_state.json").read_text())
    log = [entry for entry in state["log_history"] if "loss" in entry]
    for part, weight in (("accuracy", "1"), ("attention", "0.5"), ("format", "–")):
        means, shares = ([entry[key] for entry in log] for key in (f"rewards/{part}/mean", f"gradient_share/{part}"))
        ends = f"{np.mean(means[:4]):.3g} → {np.mean(means[-4:]):.3g}"
        assert f"{part} {weight} {ends} {100 * np.mean(shares):.1f}%" in result.text
    assert "Share of the gradient" in result.text and "Dashed: held out, during training." in result.text


def test_rewards_of_a_run_without_shares(make_run, tmp_path):
    result = page(make_run(), out=tmp_path / "report.html")
    assert re.search(r"accuracy 1 0\.\d+ → 0\.\d+ attention 0\.5 0\.\d+", result.text)
    assert not any(alt.startswith("Share of the gradient") for alt in result.images)
    assert "Dashed" not in result.text


def test_several_runs_share_the_charts_of_a_reward(make_run, tmp_path):
    runs = [make_run(name, full_log=True, gain=gain) for name, gain in (("a", 0.1), ("b", 0.4))]
    result = page(*runs, out=tmp_path / "report.html", questions=0)
    charts = [alt.split(".")[0] for alt in result.images]
    for part in ("accuracy", "attention", "format"):
        assert f"Reward: {part}" in charts and f"Share of the gradient: {part}" in charts
    assert "a accuracy 1" in result.text and "b accuracy 1" in result.text


def test_intervals_of_the_evaluations(make_run, tmp_path):
    run = make_run()
    text = page(run, out=tmp_path / "report.html").text
    for moment, label in (("before", "Before training"), ("after", "After training")):
        summary = json.loads((run / "evaluation" / moment / "summary.json").read_text())
        low, high = (100 * end for end in summary["accuracy_interval"])
        shown = f"{label} 18 {100 * summary['accuracy']:.1f}% [{low:.1f}, {high:.1f}] {summary['tas']:.3g} ["
        assert shown in text


def test_the_layer_chart_shows_every_layer(make_run, tmp_path):
    run = make_run()
    result = page(run, out=tmp_path / "report.html")
    (source,) = next(sources for alt, sources in result.images.items() if alt.startswith("Which layer"))
    tree = ElementTree.fromstring(base64.b64decode(source.partition(",")[2]))
    bars = [element for element in tree.iter() if element.get("id", "").startswith("LineCollection")]
    assert [len(list(bar)) for bar in bars[:2]] == [3, 3]  # three layers of both policies
    for moment in ("before", "after"):
        path = run / "evaluation" / moment / "summary.json"
        summary = json.loads(path.read_text())
        path.write_text(json.dumps({**summary, "tas_by_layer": None}))
    assert not any(alt.startswith("Which layer") for alt in page(run, out=tmp_path / "report.html").images)
