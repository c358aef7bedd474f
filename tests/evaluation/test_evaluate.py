"""Evaluation on a real (untrained) toy policy: same figures as an independent eager computation, and files to read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from sayo.attention import AttentionCapture
from sayo.evaluation.evaluate import evaluate
from sayo.evaluation.rollouts import completion_mask, processor_inputs, read_attention, sample_completions
from sayo.processors import load_auto_processor
from sayo.recipes import DataSection
from sayo.training.setup import load_data


@pytest.fixture(scope="module")
def setting(toy):
    model = AutoModelForImageTextToText.from_pretrained(toy.policy, dtype=torch.float32)
    rows = load_data(DataSection(path=str(toy.prepared)), "test")
    return model, load_auto_processor(toy.policy), [rows[index] for index in range(8)]


def test_figures_and_files(setting, tmp_path):
    model, processor, rows = setting
    result = evaluate(model, processor, rows, num_samples=2, max_new_tokens=6, batch_size=6, num_maps=2)
    result.save(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["num_questions"] == len(rows) and summary["accuracy"] is not None
    assert 0 < summary["tas"] < 1 and 0 < summary["image_mass"] < 1
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [sample["id"] for sample in samples] == [row["id"] for row in rows]
    assert all(len(sample["completions"]) == 2 for sample in samples)
    for sample, row in zip(samples, rows, strict=True):
        assert (sample["tas"] is None) == (not row["has_region"])
    maps = np.load(tmp_path / "maps.npz")
    shown = [sample for sample in samples if sample["map"]]
    assert len(shown) == 2
    for sample in shown:
        assert maps[sample["map"]].shape == (4, 4)
        assert (tmp_path / sample["image"]).is_file()


def test_attention_equals_eager(setting, toy):
    model, processor, rows = setting
    inputs = processor_inputs(processor, rows, "cpu")
    ids = sample_completions(model, processor, inputs, max_new_tokens=5, temperature=0.0)
    mask = completion_mask(ids, model.generation_config.eos_token_id)
    traces = read_attention(model, AttentionCapture(model), inputs, ids, mask, rows)
    eager = AutoModelForImageTextToText.from_pretrained(toy.policy, dtype=torch.float32, attn_implementation="eager")
    input_ids = torch.cat([inputs["input_ids"], ids], dim=1)
    types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, ids.shape[1]))
    with torch.no_grad():
        output = eager(
            **{
                **inputs,
                "input_ids": input_ids,
                "attention_mask": torch.cat([inputs["attention_mask"], mask], dim=1),
                "mm_token_type_ids": types,
            },
            output_attentions=True,
        )
    weights = output.attentions[-1].mean(dim=1)
    prompt = inputs["input_ids"].shape[1]
    log_probs = output.logits[:, prompt - 1 : -1].log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    for index, (trace, row) in enumerate(zip(traces, rows, strict=True)):
        length = int(mask[index].sum())
        cells = (input_ids[index] == model.config.image_token_id).nonzero()[:, 0]
        expected = weights[index, prompt - 1 : prompt + length][:, cells]
        assert np.allclose(trace.maps[0], expected, atol=1e-5)
        assert np.allclose(trace.masses["image"][0], expected.sum(-1), atol=1e-5)
        assert np.allclose(trace.entropy, entropy[index, :length], atol=1e-4)
        if row["has_region"]:
            tokens, shares = row["region_tokens"], torch.tensor(row["region_weights"])
            assert np.allclose(trace.masses["region"][0], expected[:, tokens] @ shares, atol=1e-5)


def test_batch_composition_changes_nothing(setting):
    model, processor, rows = setting
    alone = evaluate(model, processor, rows[:3], num_samples=1, temperature=0.0, max_new_tokens=5, batch_size=1)
    together = evaluate(model, processor, rows[:3], num_samples=1, temperature=0.0, max_new_tokens=5, batch_size=3)
    for one, other in zip(alone.samples, together.samples, strict=True):
        assert one["completions"] == other["completions"]
        assert one["tas"] == pytest.approx(other["tas"], abs=1e-5)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([5, 2, 0, 0], [1, 1, 0, 0]), ([5, 6, 7, 8], [1, 1, 1, 1]), ([2, 2, 5, 2], [1, 0, 0, 0])],
)
def test_completion_ends_at_the_first_eos(ids, expected):
    assert completion_mask(torch.tensor([ids]), [2, 3])[0].tolist() == expected


def test_command_line(toy, tmp_path, sayo_command):
    words = ("evaluate", toy.policy, "--data", toy.prepared, "--out", tmp_path / "out", "--limit", 3)
    result = sayo_command(*words, "--max-new-tokens", 4, "--num-samples", 1)
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.output and (tmp_path / "out" / "summary.json").is_file()
    for shown in ("TAS", "RRAR", "VAS", "AUC of TAS", "TAS by layer", "layer"):
        assert shown in result.output


def test_missing_data_is_one_clear_line(toy, tmp_path, sayo_command):
    result = sayo_command("evaluate", toy.policy, "--data", tmp_path / "nothing", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "does not exist" in result.output


def test_steering_changes_where_the_policy_looks(toy, tmp_path, sayo_command):
    words = ("evaluate", toy.policy, "--data", toy.prepared, "--limit", 6, "--max-new-tokens", 4)
    words += ("--num-samples", 1, "--temperature", 0)
    found = {}
    for name, steer in (("plain", ()), ("steered", ("--steer", "vrga"))):
        result = sayo_command(*words, *steer, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        found[name] = json.loads((tmp_path / name / "summary.json").read_text())
    assert found["steered"]["steer"] == "vrga" and found["plain"]["steer"] is None
    assert found["steered"]["tas"] != pytest.approx(found["plain"]["tas"], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--steer", "left"), "vrga"), (("--steer", "vrga", "--server", "http://localhost:9/v1"), "leave --server out")],
)
def test_steering_that_cannot_be(toy, tmp_path, sayo_command, options, message):
    result = sayo_command("evaluate", toy.policy, "--data", toy.prepared, "--out", tmp_path, *options)
    assert result.exit_code == 2 and message in result.output
