"""Attention beside the answers: worked numbers, regions mapped for any processor, and TAS against correctness."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from typer.testing import CliRunner

from sayo.attention import AttentionTrace
from sayo.evaluation.cli import compare
from sayo.evaluation.evaluate import evaluate
from sayo.evaluation.layers import advice
from sayo.evaluation.local import LocalModel
from sayo.evaluation.records import Reply, question_record, response_values
from sayo.evaluation.rollouts import prefix_weights
from sayo.evaluation.summary import summarise
from sayo.processors import load_auto_processor
from sayo.recipes import DataSection
from sayo.training.setup import load_data


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


def test_prefix_ends_at_the_first_visual_token():
    image = torch.tensor([[0, 0, 0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0]]).float()
    attention_mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1]])
    assert prefix_weights(image, attention_mask).tolist() == [[0, 1, 1, 0, 0, 0, 0, 0], [0] * 8]


def test_offsets_come_from_the_ids():
    vocabulary = {token: number for number, token in enumerate(["[end]", *"abcdk<>/", "ck", "><", "</"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[end]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[end]")
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[0]))
    answerer = LocalModel(model, SimpleNamespace(tokenizer=fast), max_new_tokens=20)
    tokens = ["a", "<", "b", "a", "ck", ">", "d", "</", "b", "a", "ck", ">", "[end]"]
    ids = torch.tensor([vocabulary[token] for token in tokens])
    reply = answerer._reply(ids, [trace([0.1] * 14, None, [0.5] * 14, [1.0] * 13, (10.0, 0.0, 4.0))], True)
    assert reply.text == "a<back>d</back>" and not reply.truncated
    assert [reply.text[start:end] for start, end in reply.offsets] == [*tokens[:-1], ""]
    assert answerer._reply(ids[:-1], (), True).truncated is False  # it ended below the limit
    assert LocalModel(model, SimpleNamespace(tokenizer=fast), max_new_tokens=12)._reply(ids[:-1], (), True).truncated


@pytest.fixture(scope="module")
def setting(toy):
    model = AutoModelForImageTextToText.from_pretrained(toy.policy, dtype=torch.float32)
    rows = load_data(DataSection(path=str(toy.prepared)), "test")
    return model, load_auto_processor(toy.policy), [rows[index] for index in range(12)]


def test_regions_are_mapped_for_the_model_at_hand(setting):
    """Rows that were prepared for no processor, or for another one, read the same attention."""
    model, processor, rows = setting
    options = {"num_samples": 1, "temperature": 0.0, "max_new_tokens": 4}
    tokens = ("region_tokens", "region_weights", "num_visual_tokens", "processor_fingerprint")
    bare = [{**row, **dict.fromkeys(tokens)} for row in rows]
    other = [{**row, "region_tokens": [0], "region_weights": [1.0], "processor_fingerprint": "other"} for row in rows]
    expected = [sample["tas"] for sample in evaluate(model, processor, rows, **options).samples]
    assert any(value is not None for value in expected)
    for changed in (bare, other):
        assert [s["tas"] for s in evaluate(model, processor, changed, **options).samples] == pytest.approx(expected)


def test_a_region_outside_of_the_picture_is_dropped_and_counted(setting):
    model, processor, rows = setting
    good = next(row for row in rows if row["has_region"])
    outside = {**good["regions"][0], "box": [500.0, 500.0, 510.0, 510.0]}
    changed = [
        {**good, "regions": [*good["regions"], outside], "processor_fingerprint": None},
        {**good, "regions": [outside], "processor_fingerprint": None},
    ]
    result = evaluate(model, processor, changed, num_samples=1, max_new_tokens=3)
    assert [sample["regions_dropped"] for sample in result.samples] == [1, 1]
    assert result.samples[0]["tas"] is not None and result.samples[1]["tas"] is None
    assert result.summary()["regions_dropped"] == 2


def test_summary_of_the_toy_policy(setting):
    summary = evaluate(*setting, num_samples=2, max_new_tokens=4).summary()
    low, high = summary["intervals"]["tas"]
    assert low <= summary["tas"] <= high and summary["vas"] > 0 and summary["rrar"] > 0
    assert set(summary["by_type"]) == {row["question_type"] for row in setting[2]}
    link = summary["tas_and_correctness"]
    assert link["num_right"] + link["num_wrong"] == 2 * sum(row["has_region"] for row in setting[2])


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
        yield question_record(row, replies, "reward")


def test_tas_goes_with_correctness_only_where_it_does():
    rng = np.random.default_rng(0)
    summary = summarise([*records(rng, "looks", 1.0), *records(rng, "guesses", 0.0)])
    looks = summary["by_type"]["looks"]["tas_and_correctness"]
    guesses = summary["by_type"]["guesses"]["tas_and_correctness"]
    assert looks["auc"] > 0.9 and looks["auc_interval"][0] > 0.8 and looks["mean_right"] > looks["mean_wrong"]
    assert guesses["auc_interval"][0] < 0.5 < guesses["auc_interval"][1]
    assert guesses["point_biserial_interval"][0] < 0 < guesses["point_biserial_interval"][1]
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
        yield question_record(row, replies, "reward")


def test_the_layer_that_tells_right_from_wrong_is_named():
    summary = summarise(list(layered_records(np.random.default_rng(1), [0.0, 0.6, 0.2, -0.6])))
    found = summary["tas_by_layer"]
    assert [row["layer"] for row in found["by_layer"]] == [0, 1, 2, 3]
    assert [row["auc"] > 0.5 for row in found["by_layer"]][1:] == [True, True, False]
    assert found["by_layer"][3]["tas"] == pytest.approx(summary["tas"])  # the layer that was asked for
    assert found["best"]["layer"] == 1 and found["best"]["clear"]
    assert "trainer.attention_layers=1" in advice(found)


def test_no_layer_is_advised_by_chance():
    """Of 12 layers that know nothing the luckiest seems to know: it is judged on questions that did not choose it."""
    advised = 0
    for seed in range(6):
        found = summarise(list(layered_records(np.random.default_rng(seed), [0.0] * 12, count=60)))["tas_by_layer"]
        advised += found["best"]["clear"]
        assert found["best"]["clear"] == ("attention_layers" in advice(found))
    assert advised <= 1


def test_advice_without_wrong_answers(setting):
    samples = list(layered_records(np.random.default_rng(2), [0.5, 0.5], count=8))
    for sample in samples:
        sample["correct"] = [1.0, 1.0]
    found = summarise(samples)["tas_by_layer"]
    assert found["best"] is None and "cannot be told" in advice(found)


def test_layers_of_a_real_policy_are_read_in_the_same_pass(setting):
    """Every layer alone, whichever of them is reported; the reported one keeps its value."""
    model, processor, rows = setting
    options = {"num_samples": 1, "temperature": 0.0, "max_new_tokens": 4}
    last, first = (evaluate(model, processor, rows, layers=layers, **options).samples for layers in ("last", 0))
    every = evaluate(model, processor, rows, layers="all", **options).samples
    seen = 0
    for one, other, all_ in zip(last, first, every, strict=True):
        if one["tas"] is not None:
            seen += 1
            single = one["responses"][0]["tas_by_layer"]
            assert single == pytest.approx(other["responses"][0]["tas_by_layer"])
            assert single == pytest.approx(all_["responses"][0]["tas_by_layer"])
            assert one["tas"] == pytest.approx(single[max(single)]) and other["tas"] == pytest.approx(single["0"])
    assert seen


def test_compare_command(setting, tmp_path):
    model, processor, rows = setting
    for name, seed in (("a", 0), ("b", 1)):
        evaluate(model, processor, rows, num_samples=2, max_new_tokens=3, seed=seed).save(tmp_path / name)
    app = typer.Typer()
    app.command()(compare)
    out = tmp_path / "difference.json"
    result = CliRunner().invoke(app, [str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "TAS" in result.output and '"p_value"' in out.read_text()
    result = CliRunner().invoke(app, [str(tmp_path / "a"), str(tmp_path / "nothing")])
    assert result.exit_code == 2 and "holds no evaluation" in result.output
