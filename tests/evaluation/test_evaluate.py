"""An evaluation: results on disk, resumption after a kill, the command lines."""

import json
import os

import numpy as np
import pytest
from evaluation.conftest import Parrot

from sayo.evaluation.evaluate import evaluate
from sayo.evaluation.journal import JournalError, files_mark
from sayo.evaluation.local import LocalModel


def test_summary_counts_everything(ten, tmp_path, lines):
    texts = ["B", "A", "", "B", "", "B", "(B)", "The answer is B.", "C", None]
    summary = evaluate(Parrot(texts), ten, tmp_path / "out", {"model": "parrot"})
    assert summary["accuracy"] == pytest.approx(5 / 9) and summary["no_answer"] == 2
    assert summary["failed"] == {"timeout": 1} and summary["num_scored"] == 9  # a failure is no wrong answer
    assert summary["accuracy_interval"][0] < 5 / 9 < summary["accuracy_interval"][1]
    assert {kind: part["num_questions"] for kind, part in summary["by_type"].items()} == {"a": 5, "b": 5}
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [record["answers"] for record in lines(tmp_path / "out")][:3] == [["B"], ["A"], [None]]
    again = Parrot("B" * 10)
    assert evaluate(again, ten, tmp_path / "out", {"model": "parrot"})["failed"] == {} and again.asked == [9]


def test_whole_texts_are_answers_only_on_demand(ten, tmp_path):
    assert evaluate(Parrot("B" * 10, "{}"), ten, tmp_path / "tags")["accuracy"] == 0.0
    assert evaluate(Parrot("B" * 10, "{}"), ten, tmp_path / "whole", whole_text=True)["accuracy"] == 1.0


@pytest.mark.parametrize("torn", ["", '{"id": "4", "ind', '{"id": "4", "index": 4}'])
def test_resumes_after_a_kill(ten, tmp_path, torn):
    for folder in ("whole", "killed"):
        evaluate(Parrot("BABABABABA"), ten, tmp_path / folder, {"model": "m"})
    path = tmp_path / "killed" / "samples.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:4]) + "\n" + torn)
    (tmp_path / "killed" / "summary.json").unlink()
    again = Parrot("BABABABABA")
    evaluate(again, ten, tmp_path / "killed", {"model": "m"})
    assert again.asked == [4, 5, 6, 7, 8, 9]
    for name in ("samples.jsonl", "summary.json", "settings.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_nothing_is_asked_twice_and_a_larger_limit_resumes(ten, tmp_path, lines):
    for limit, expected in ((4, [0, 1, 2, 3]), (4, []), (10, [4, 5, 6, 7, 8, 9]), (3, [])):
        parrot = Parrot("B" * 10)
        assert evaluate(parrot, ten.select(range(limit)), tmp_path)["num_questions"] == limit
        assert parrot.asked == expected
    assert len(lines(tmp_path)) == 10


def test_other_settings_or_data_are_refused(ten, tmp_path):
    settings = {"temperature": 0.0, "model": "m"}
    evaluate(Parrot("B" * 10), ten, tmp_path, settings)
    with pytest.raises(JournalError, match=r"temperature: 0.0 there, 1.0 now"):
        evaluate(Parrot("B" * 10), ten, tmp_path, {**settings, "temperature": 1.0})
    other = ten.select(range(9, -1, -1))
    with pytest.raises(JournalError, match="question 0 was '0', now it is '9'"):
        evaluate(Parrot("B" * 10), other, tmp_path, settings)
    evaluate(Parrot("B" * 10), other, tmp_path, settings, overwrite=True)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(JournalError, match="nobody can tell how it was made"):
        evaluate(Parrot("B" * 10), other, tmp_path, settings)


def test_figures_and_files_of_a_policy(toy_policy, toy_rows, tmp_path, lines):
    rows = toy_rows.select(range(8))
    answerer = LocalModel(*toy_policy, num_samples=2, temperature=1.0, max_new_tokens=6, batch_size=6)
    summary = evaluate(answerer, rows, tmp_path, num_maps=2)
    assert summary["num_questions"] == 8 and summary["accuracy"] is not None and summary["image_mass"] > 0
    assert summary["intervals"]["tas"][0] <= summary["tas"] <= summary["intervals"]["tas"][1]
    assert set(summary["by_type"]) == set(rows["question_type"])
    assert summary["tas_and_correctness"]["num_wrong"] == 2 * sum(rows["has_region"])
    samples, maps = lines(tmp_path), np.load(tmp_path / "maps.npz")
    for sample, row in zip(samples, rows, strict=True):
        assert sample["id"] == row["id"] and len(sample["completions"]) == 2
        assert (sample["tas"] is None) == (not row["has_region"])
    shown = [sample for sample in samples if sample["map"]]
    assert len(shown) == 2 and all(maps[sample["map"]].shape == (4, 4) for sample in shown)
    assert all((tmp_path / sample["image"]).is_file() for sample in shown)
    assert evaluate(answerer, rows, tmp_path / "plain", attention=False)["tas"] is None


def test_batch_composition_changes_nothing(toy_policy, toy_rows, tmp_path, lines):
    for size in (1, 3):
        answerer = LocalModel(*toy_policy, max_new_tokens=5, batch_size=size)
        evaluate(answerer, toy_rows.select(range(3)), tmp_path / str(size))
    for alone, together in zip(lines(tmp_path / "1"), lines(tmp_path / "3"), strict=True):
        assert alone["completions"] == together["completions"]
        assert alone["tas"] == pytest.approx(together["tas"], abs=1e-5)


def test_sampling_resumes_as_it_would_have_gone(toy_policy, toy_rows, tmp_path, lines):
    def run(folder, limit):
        answerer = LocalModel(*toy_policy, num_samples=2, temperature=1.0, max_new_tokens=5, batch_size=4)
        evaluate(answerer, toy_rows.select(range(limit)), tmp_path / folder, {"t": 1})
        return lines(tmp_path / folder)

    run("parts", 4)
    assert run("parts", 8) == run("whole", 8)


def test_a_picture_that_the_processor_refuses_costs_one_row(toy_policy, ten, tmp_path):
    model, processor = toy_policy

    class Picky:
        def __getattr__(self, name):
            return getattr(processor, name)

        def apply_chat_template(self, conversations, **options):
            if any("Number 2" in str(turn) for turns in conversations for turn in turns):
                raise ValueError("absolute aspect ratio must be smaller than 200")
            return processor.apply_chat_template(conversations, **options)

    summary = evaluate(LocalModel(model, Picky(), max_new_tokens=2), ten.select(range(4)), tmp_path)
    assert summary["failed"] == {"processor": 1} and summary["num_scored"] == 3


def test_command_line(toy, tmp_path, sayo_command):
    """Evaluate plain and steered, refuse other settings, compare."""
    words = ("evaluate", toy.policy, "--data", toy.prepared, "--limit", 6, "--max-new-tokens", 4)
    words += ("--num-samples", 1, "--temperature", 0)
    summaries = {}
    for name, steer in (("plain", ()), ("steered", ("--steer", "vrga"))):
        result = sayo_command(*words, *steer, "--seed", 98, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        summaries[name] = json.loads((tmp_path / name / "summary.json").read_text())
    for shown in ("accuracy", "TAS", "RRAR", "VAS", "AUC of TAS", "TAS by layer", "layer"):
        assert shown in result.output
    assert summaries["steered"]["steer"] == "vrga" and summaries["plain"]["steer"] is None
    assert summaries["steered"]["tas"] != pytest.approx(summaries["plain"]["tas"], abs=1e-6)
    result = sayo_command(*words, "--out", tmp_path / "plain", "--seed", 5)
    assert result.exit_code == 2 and "seed: 98 there, 5 now" in result.output
    result = sayo_command("compare", tmp_path / "plain", tmp_path / "steered", "--out", tmp_path / "difference.json")
    assert result.exit_code == 0 and "TAS" in result.output
    assert '"p_value"' in (tmp_path / "difference.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "no/such/folder"), "does not exist"),
        (("--steer", "left"), "vrga"),
        (("--steer", "vrga", "--server", "http://localhost:9/v1"), "leave --server out"),
    ],
)
def test_mistakes_are_one_clear_line(toy, tmp_path, sayo_command, options, message):
    result = sayo_command("evaluate", toy.policy, "--data", toy.prepared, "--out", tmp_path, *options)
    assert result.exit_code == 2 and message in result.output


def test_a_model_that_was_trained_on_is_another_model(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    os.utime(weights, ns=(1, 1))
    before = files_mark(str(tmp_path))
    assert files_mark(str(tmp_path)) == before and files_mark("Qwen/Qwen3-VL-8B-Instruct") is None
    (tmp_path / "notes.txt").write_text("no weights")
    assert files_mark(str(tmp_path)) == before
    weights.write_bytes(b"2")
    assert files_mark(str(tmp_path)) != before
