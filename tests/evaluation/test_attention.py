"""Attention beside the answers: worked numbers, regions mapped for any processor, and TAS against correctness."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from datasets import Dataset

from sayo.attention import AttentionTrace
from sayo.evaluation.evaluate import evaluate
from sayo.evaluation.local import LocalModel
from sayo.evaluation.records import Reply, question_record, response_values
from sayo.evaluation.summary import advice, summary_of


def trace(image, target, prefix, entropy, sizes=(10.0, 2.0, 4.0)) -> AttentionTrace:
    masses = {"image": image, "region": target, "prefix": prefix}
    return AttentionTrace(
        masses={name: np.array([values], np.float32) for name, values in masses.items() if values is not None},
        sizes=dict(zip(masses, sizes, strict=True)),
        entropy=np.array(entropy, np.float32),
        layers=(0,),
    )


def test_worked_numbers_of_one_response():
    """Three tokens, four rows: deciding rows are the first three, the most uncertain token is the second."""
    found = response_values(
        Reply(
            "abc",
            length=3,
            trace=trace([0.4, 0.5, 0.2, 0.3], [0.2, 0.3, 0.1, 0.1], [0.1, 0.2, 0.4, 0.3], [0.1, 2, 0.2]),
        )
    )
    a, v = 0.3 / 2, 0.5 / 10
    assert found["region_ratio"] == pytest.approx(a / v, rel=1e-5)
    assert found["tas"] == pytest.approx((a / v) ** 2 / (1 + (a / v) ** 2), rel=1e-5)
    assert found["tas_of_token"] == pytest.approx((0.05 / 0.02) ** 2 / (1 + (0.05 / 0.02) ** 2), rel=1e-5)
    assert found["rrar"] == pytest.approx((0.2 / 2) / (0.4 / 10), rel=1e-5)
    assert found["vas"] == pytest.approx((0.4 / 0.1 + 0.5 / 0.2 + 0.2 / 0.4) / 3, rel=1e-4)
    assert found["image_mass"] == pytest.approx(0.5) and found["entropy"] == pytest.approx(2.3 / 3)
    assert found["look_back_lift"] is None


def test_look_back_lift_by_characters():
    """Share of the image outside the prefix: .1 before the span, .3 in it."""
    text = "ab<back>cd</back>e\\boxed{f}"
    image = [0.05] * 2 + [0.15] * 2 + [0.05] * 2
    reply = Reply(
        text,
        length=5,
        trace=trace(image, None, [0.5] * 6, [1.0] * 5, sizes=(10.0, 0.0, 4.0)),
        offsets=[(0, 2), (2, 8), (8, 9), (9, 17), (17, len(text))],
    )
    assert response_values(reply)["look_back_lift"] == pytest.approx(3.0)
    assert response_values(reply)["tas"] is None


def test_nothing_is_defined_without_a_trace_or_a_token():
    empty = trace([0.4], [0.2], [0.1], [])
    for reply in (Reply("text", length=2), Reply("", length=0, trace=empty), Reply(error="timeout")):
        assert set(response_values(reply).values()) == {None}


@pytest.fixture
def samples_of(policy, tmp_path, lines):
    """The records of a greedy evaluation of rows."""

    def run(rows, layers="last"):
        rows = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
        evaluate(LocalModel(*policy, max_new_tokens=4, layers=layers), rows, tmp_path, overwrite=True)
        return lines(tmp_path)

    return run


def test_regions_are_mapped_for_the_model_at_hand(prepared, samples_of):
    """Rows that were prepared for no processor, or for another one, read the same attention."""
    rows = list(prepared.select(range(12)))
    tokens = ("region_tokens", "region_weights", "num_visual_tokens", "processor_fingerprint")
    bare = [{key: value for key, value in row.items() if key not in tokens} for row in rows]
    other = [{**row, "region_tokens": [0], "region_weights": [1.0], "processor_fingerprint": "other"} for row in rows]
    expected = [sample["tas"] for sample in samples_of(rows)]
    assert any(value is not None for value in expected)
    for changed in (bare, other):
        assert [sample["tas"] for sample in samples_of(changed)] == pytest.approx(expected)


def test_a_region_outside_of_the_picture_is_dropped_and_counted(prepared, samples_of):
    good = next(row for row in prepared if row["has_region"])
    outside = {**good["regions"][0], "box": [500.0, 500.0, 510.0, 510.0]}
    changed = [
        {**good, "regions": [*good["regions"], outside], "processor_fingerprint": None},
        {**good, "regions": [outside], "processor_fingerprint": None},
    ]
    samples = samples_of(changed)
    assert [sample["regions_dropped"] for sample in samples] == [1, 1]
    assert samples[0]["tas"] is not None and samples[1]["tas"] is None
    assert summary_of(samples)["regions_dropped"] == 2


def records(rng, kind, shift, count=60):
    """Questions with two responses each whose attention on the region is `shift` higher (log) where they are right."""
    for number in range(count):
        right = rng.random(2) < 0.5
        row = {"id": f"{kind}{number}", "index": number, "question": "?", "question_type": kind, "solution": "x"}
        replies = []
        for is_right in right:
            target = 0.02 * np.exp(rng.normal(scale=0.3) + shift * is_right)
            read = trace([0.3] * 3, [target] * 3, [0.1] * 3, [1.0, 1.0])
            replies.append(Reply("<answer>x</answer>" if is_right else "<answer>y</answer>", length=2, trace=read))
        yield question_record(row, replies)


def test_tas_goes_with_correctness_only_where_it_does():
    rng = np.random.default_rng(0)
    summary = summary_of([*records(rng, "looks", 1.0), *records(rng, "guesses", 0.0)])
    looks = summary["by_type"]["looks"]["tas_and_correctness"]
    guesses = summary["by_type"]["guesses"]["tas_and_correctness"]
    assert looks["auc"] > 0.9 and looks["auc_interval"][0] > 0.8 and looks["mean_right"] > looks["mean_wrong"]
    assert guesses["auc_interval"][0] < 0.5 < guesses["auc_interval"][1]
    assert guesses["auc"] < summary["tas_and_correctness"]["auc"] < looks["auc"]


def layered_records(rng, shifts, count=150):
    """As `records`, of a model whose layer `i` looks `shifts[i]` more at the target where it is right."""
    for number in range(count):
        row = {"id": str(number), "index": number, "question": "?", "question_type": "all", "solution": "x"}
        replies = []
        for is_right in rng.random(2) < 0.5:
            targets = 0.02 * np.exp(rng.normal(scale=0.5, size=len(shifts)) + np.array(shifts) * is_right)
            parts = [trace([0.3] * 3, [target] * 3, [0.1] * 3, [1.0, 1.0]) for target in targets]
            own = dataclasses.replace(parts[-1], layers=(len(shifts) - 1,))
            masses = {name: np.concatenate([part.masses[name] for part in parts[:-1]]) for name in own.masses}
            others = dataclasses.replace(own, masses=masses, layers=tuple(range(len(shifts) - 1)))
            text = "<answer>x</answer>" if is_right else "<answer>y</answer>"
            replies.append(Reply(text, length=2, trace=own, other_layers=others))
        yield question_record(row, replies)


def test_the_layer_that_tells_right_from_wrong_is_named():
    summary = summary_of(list(layered_records(np.random.default_rng(1), [0.0, 0.6, 0.2, -0.6])))
    found = summary["tas_by_layer"]
    assert [row["layer"] for row in found["by_layer"]] == [0, 1, 2, 3]
    assert [row["auc"] > 0.5 for row in found["by_layer"]][1:] == [True, True, False]
    assert found["by_layer"][3]["mean"] == pytest.approx(summary["tas"])  # the layer that was asked for
    assert found["best"]["layer"] == 1 and found["best"]["clear"]
    assert "trainer.attention_layers=1" in advice(found)


def test_no_layer_is_advised_by_chance():
    """Of 12 layers that know nothing the luckiest seems to know: it is judged on questions that did not choose it."""
    advised = 0
    for seed in range(6):
        found = summary_of(list(layered_records(np.random.default_rng(seed), [0.0] * 12, count=60)))["tas_by_layer"]
        advised += found["best"]["clear"]
        assert found["best"]["clear"] == ("attention_layers" in advice(found))
    assert advised <= 1


def test_advice_without_wrong_answers():
    samples = list(layered_records(np.random.default_rng(2), [0.5, 0.5], count=8))
    for sample in samples:
        sample["correct"] = [1.0, 1.0]
    found = summary_of(samples)["tas_by_layer"]
    assert found["best"] is None and "cannot be told" in advice(found)


def test_layers_of_a_real_policy_are_read_in_the_same_pass(prepared, samples_of):
    """Every layer alone, whichever of them is reported; the reported one keeps its value."""
    rows, seen = prepared.select(range(12)), 0
    for last, first, every in zip(*(samples_of(rows, layers) for layers in ("last", 0, "all")), strict=True):
        if last["tas"] is not None:
            seen += 1
            single = last["responses"][0]["tas_by_layer"]
            assert single == pytest.approx(first["responses"][0]["tas_by_layer"])
            assert single == pytest.approx(every["responses"][0]["tas_by_layer"])
            assert last["tas"] == pytest.approx(single[max(single)]) and first["tas"] == pytest.approx(single["0"])
    assert seen
