"""Attention beside the answers: worked numbers, regions mapped for any processor, and TAS against correctness."""

import dataclasses

import numpy as np
import pytest
from datasets import Dataset

from sayo.attention import AttentionTrace
from sayo.evaluation.evaluate import evaluate
from sayo.evaluation.local import LocalModel
from sayo.evaluation.records import Reply, question_record, response_values
from sayo.evaluation.summary import advice, summary_of


def trace(image, region, prefix, entropy, sizes=(10.0, 2.0, 4.0)) -> AttentionTrace:
    masses = {"image": image, "region": region, "prefix": prefix}
    return AttentionTrace(
        masses={name: np.array([values], np.float32) for name, values in masses.items() if values is not None},
        sizes=dict(zip(masses, sizes, strict=True)),
        entropy=np.array(entropy, np.float32),
        layers=(0,),
    )


def test_worked_numbers_of_one_response():
    """Three tokens, four rows: deciding rows are the first three, the most uncertain token is the second."""
    masses = [0.4, 0.5, 0.2, 0.3], [0.2, 0.3, 0.1, 0.1], [0.1, 0.2, 0.4, 0.3]
    values = response_values(Reply("abc", length=3, trace=trace(*masses, [0.1, 2, 0.2])))
    a, v = 0.3 / 2, 0.5 / 10
    assert values["region_ratio"] == pytest.approx(a / v, rel=1e-5)
    assert values["tas"] == pytest.approx((a / v) ** 2 / (1 + (a / v) ** 2), rel=1e-5)
    assert values["tas_of_token"] == pytest.approx((0.05 / 0.02) ** 2 / (1 + (0.05 / 0.02) ** 2), rel=1e-5)
    assert values["rrar"] == pytest.approx((0.2 / 2) / (0.4 / 10), rel=1e-5)
    assert values["vas"] == pytest.approx((0.4 / 0.1 + 0.5 / 0.2 + 0.2 / 0.4) / 3, rel=1e-4)
    assert values["image_mass"] == pytest.approx(0.5) and values["entropy"] == pytest.approx(2.3 / 3)
    assert values["look_back_lift"] is None


def test_look_back_lift_by_characters():
    """Share of the image outside the prefix: .1 before the span, .3 in it."""
    text = "ab<back>cd</back>e\\boxed{f}"
    capture = trace([0.05] * 2 + [0.15] * 2 + [0.05] * 2, None, [0.5] * 6, [1.0] * 5, sizes=(10.0, 0.0, 4.0))
    offsets = [(0, 2), (2, 8), (8, 9), (9, 17), (17, len(text))]
    reply = Reply(text, length=5, trace=capture, offsets=offsets)
    assert response_values(reply)["look_back_lift"] == pytest.approx(3.0)
    assert response_values(reply)["tas"] is None


def test_nothing_is_defined_without_a_trace_or_a_token():
    empty = trace([0.4], [0.2], [0.1], [])
    for reply in (Reply("text", length=2), Reply("", length=0, trace=empty), Reply(error="timeout")):
        assert set(response_values(reply).values()) == {None}


@pytest.fixture
def samples_of(toy_policy, tmp_path, lines):
    """The records of a greedy evaluation of rows."""

    def run(rows, layers="last"):
        rows = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
        evaluate(LocalModel(*toy_policy, max_new_tokens=4, layers=layers), rows, tmp_path, overwrite=True)
        return lines(tmp_path)

    return run


def test_rows_without_regions_are_read_too(toy_rows, samples_of):
    """Somebody's questions about pictures, never prepared: what needs no region is known."""
    row = {name: toy_rows[0][name] for name in ("prompt", "images", "solution", "question", "question_type")}
    (sample,) = samples_of([row])
    assert sample["vas"] > 0 and 0 < sample["image_mass"] < 1 and sample["tas"] is None


def test_regions_are_mapped_for_the_model_at_hand(toy_rows, samples_of):
    """Rows that were prepared for no processor, or for another one, read the same attention."""
    rows = list(toy_rows.select(range(12)))
    tokens = ("region_tokens", "region_weights", "num_visual_tokens", "processor_fingerprint")
    bare = [{key: value for key, value in row.items() if key not in tokens} for row in rows]
    other = [{**row, "region_tokens": [0], "region_weights": [1.0], "processor_fingerprint": "other"} for row in rows]
    expected = [sample["tas"] for sample in samples_of(rows)]
    assert any(value is not None for value in expected)
    for changed in (bare, other):
        assert [sample["tas"] for sample in samples_of(changed)] == pytest.approx(expected)


def test_a_region_outside_of_the_picture_is_dropped_and_counted(toy_rows, samples_of):
    good = next(row for row in toy_rows if row["has_region"])
    outside = {**good["regions"][0], "box": [500.0, 500.0, 510.0, 510.0]}
    changed = [
        {**good, "regions": [*good["regions"], outside], "processor_fingerprint": None},
        {**good, "regions": [outside], "processor_fingerprint": None},
    ]
    samples = samples_of(changed)
    assert [sample["regions_dropped"] for sample in samples] == [1, 1]
    assert samples[0]["tas"] is not None and samples[1]["tas"] is None
    assert summary_of(samples)["regions_dropped"] == 2


def records(rng, shifts, kind="all", count=60):
    """Questions with two responses each: where they are right, layer i has `shifts[i]` more (log) on the region."""
    for number in range(count):
        row = {"id": f"{kind}{number}", "index": number, "question": "?", "question_type": kind, "solution": "x"}
        replies = []
        for is_right in rng.random(2) < 0.5:
            regions = 0.02 * np.exp(rng.normal(scale=0.5, size=len(shifts)) + np.array(shifts) * is_right)
            layers = [trace([0.3] * 3, [region] * 3, [0.1] * 3, [1.0, 1.0]) for region in regions]
            last = dataclasses.replace(layers.pop(), layers=(len(layers),))
            masses = {name: np.concatenate([layer.masses[name] for layer in layers]) for name in last.masses if layers}
            others = dataclasses.replace(last, masses=masses, layers=tuple(range(len(layers)))) if layers else None
            text = "<answer>x</answer>" if is_right else "<answer>y</answer>"
            replies.append(Reply(text, length=2, trace=last, other_layers=others))
        yield question_record(row, replies)


def test_tas_goes_with_correctness_only_where_it_does():
    rng = np.random.default_rng(0)
    summary = summary_of([*records(rng, [1.5], "looks"), *records(rng, [0.0], "guesses")])
    looks = summary["by_type"]["looks"]["tas_and_correctness"]
    guesses = summary["by_type"]["guesses"]["tas_and_correctness"]
    assert looks["auc"] > 0.9 and looks["auc_interval"][0] > 0.8 and looks["mean_right"] > looks["mean_wrong"]
    assert guesses["auc_interval"][0] < 0.5 < guesses["auc_interval"][1]
    assert guesses["auc"] < summary["tas_and_correctness"]["auc"] < looks["auc"]


def test_the_layer_that_tells_right_from_wrong_is_named():
    summary = summary_of(list(records(np.random.default_rng(1), [0.0, 0.6, 0.2, -0.6], count=150)))
    layers = summary["tas_by_layer"]
    assert [row["layer"] for row in layers["by_layer"]] == [0, 1, 2, 3]
    assert [row["auc"] > 0.5 for row in layers["by_layer"]][1:] == [True, True, False]
    assert layers["by_layer"][3]["mean"] == pytest.approx(summary["tas"])  # the layer that was asked for
    assert layers["best"]["layer"] == 1 and layers["best"]["clear"]
    assert "trainer.attention_layers=1" in advice(layers)


def test_no_layer_is_advised_by_chance():
    """Of 12 layers that know nothing the luckiest seems to know: it is judged on questions that did not choose it."""
    advised = 0
    for seed in range(6):
        layers = summary_of(list(records(np.random.default_rng(seed), [0.0] * 12)))["tas_by_layer"]
        advised += layers["best"]["clear"]
        assert layers["best"]["clear"] == ("attention_layers" in advice(layers))
    assert advised <= 1


def test_advice_without_wrong_answers():
    samples = list(records(np.random.default_rng(2), [0.5, 0.5], count=8))
    for sample in samples:
        sample["correct"] = [1.0, 1.0]
    layers = summary_of(samples)["tas_by_layer"]
    assert layers["best"] is None and "cannot be told" in advice(layers)


def test_layers_of_a_real_policy_are_read_in_the_same_pass(toy_rows, samples_of):
    """Every layer alone, whichever of them is reported; the reported one keeps its value."""
    rows, seen = toy_rows.select(range(12)), 0
    for last, first, every in zip(*(samples_of(rows, layers) for layers in ("last", 0, "all")), strict=True):
        if last["tas"] is not None:
            seen += 1
            single = last["responses"][0]["tas_by_layer"]
            assert single == pytest.approx(first["responses"][0]["tas_by_layer"])
            assert single == pytest.approx(every["responses"][0]["tas_by_layer"])
            assert last["tas"] == pytest.approx(single[max(single)]) and first["tas"] == pytest.approx(single["0"])
    assert seen
