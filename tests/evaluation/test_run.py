"""A run of tasks on the toy policy: results on disk, going on after a kill, comparison, the command lines."""

from __future__ import annotations

import json
import os

import pytest
import torch
import yaml
from evaluation.conftest import written
from transformers import AutoModelForImageTextToText

from sayo.evaluation.compare import compare
from sayo.evaluation.local import LocalModel
from sayo.evaluation.plan import files_mark
from sayo.evaluation.questions import Questions
from sayo.evaluation.records import Reply
from sayo.evaluation.run import run_task
from sayo.evaluation.store import SettingsDiffer
from sayo.evaluation.tasks import TaskError, load_task, tasks_dir
from sayo.processors import load_auto_processor


class Parrot:
    """Answers question i with `texts[i]` and remembers whom it was asked."""

    def __init__(self, texts):
        self.texts, self.asked = texts, []

    def answer(self, rows, attention=False):
        for row in rows:
            self.asked.append(row["index"])
            yield row, [Reply(self.texts[row["index"]], length=1)]


@pytest.fixture
def ten(task_files):
    row = written("mmstar")[0]["row"]
    return task_files("mmstar", [{**row, "index": n, "category": "ab"[n % 2]} for n in range(10)])


def stars(ten, limit=None):
    return Questions(load_task("mmstar"), ten, limit=limit)


def lines(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_summary_counts_everything(ten, tmp_path):
    texts = ["B", "A", "no idea", "B", "", "B", "(B)", "The answer is B.", "C", "B"]
    summary = run_task(Parrot(texts), stars(ten), tmp_path / "out", {"model": "parrot"})
    assert summary["accuracy"] == pytest.approx(0.6) and summary["no_answer"] == 2 and summary["failed"] == {}
    assert summary["accuracy_interval"][0] < 0.6 < summary["accuracy_interval"][1]
    assert {kind: part["num_questions"] for kind, part in summary["by_type"].items()} == {"a": 5, "b": 5}
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [record["answers"] for record in lines(tmp_path / "out")][:3] == [["B"], ["A"], [None]]


def test_bad_rows_are_reported_and_not_scored(ten, task_files, tmp_path):
    row = written("pope")[0]["row"]
    rows = [row, {**row, "id": "1", "image": {"bytes": b"junk", "path": None}}, {**row, "id": "2", "answer": None}]
    asked = Questions(load_task("pope"), task_files("pope", rows))
    summary = run_task(Parrot(["yes"] * 3), asked, tmp_path / "out", {})
    assert summary["failed"] == {"image": 1, "row": 1} and summary["num_questions"] == 3
    assert summary["accuracy"] == 1.0 and summary["num_scored"] == 1
    assert summary["yes_no"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "yes_share": 1.0}


def test_groups_are_right_only_as_a_whole(task_files, tmp_path):
    row = written("hallusionbench")[0]["row"]
    rows = [{**row, "figure_id": figure, "question_id": question} for figure in "12" for question in "01"]
    asked = Questions(load_task("hallusionbench"), task_files("hallusionbench", rows))
    summary = run_task(Parrot(["yes", "yes", "yes", "no"]), asked, tmp_path / "out", {})
    assert summary["accuracy"] == 0.75
    assert summary["yes_no"]["precision"] == 1.0 and summary["yes_no"]["recall"] == 0.75
    assert summary["groups"]["figure"]["all_right"] == 0.5 and summary["groups"]["question"]["num_groups"] == 2


@pytest.mark.parametrize("torn", ["", '{"id": "4", "ind', '{"id": "4", "index": 4}'])
def test_goes_on_after_a_kill(ten, tmp_path, torn):
    whole = Parrot("BABABABABA")
    run_task(whole, stars(ten), tmp_path / "whole", {"model": "m"})
    killed = tmp_path / "killed"
    run_task(Parrot("BABABABABA"), stars(ten), killed, {"model": "m"})
    path = killed / "samples.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:4]) + "\n" + torn)
    (killed / "summary.json").unlink()
    again = Parrot("BABABABABA")
    run_task(again, stars(ten), killed, {"model": "m"})
    assert again.asked == [4, 5, 6, 7, 8, 9]
    for name in ("samples.jsonl", "summary.json", "settings.json"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_nothing_is_asked_twice_and_a_larger_limit_goes_on(ten, tmp_path):
    for limit, expected in ((4, [0, 1, 2, 3]), (4, []), (None, [4, 5, 6, 7, 8, 9])):
        parrot = Parrot("B" * 10)
        summary = run_task(parrot, stars(ten, limit), tmp_path, {})
        assert parrot.asked == expected and summary["num_questions"] == (limit or 10)
    assert run_task(Parrot("B" * 10), stars(ten, 3), tmp_path, {})["num_questions"] == 3
    assert len(lines(tmp_path)) == 10


def test_other_settings_or_data_are_refused(ten, task_files, tmp_path):
    run_task(Parrot("B" * 10), stars(ten), tmp_path / "out", {"temperature": 0.0, "model": "m"})
    with pytest.raises(SettingsDiffer, match=r"temperature: 0.0 there, 1.0 now"):
        run_task(Parrot("B" * 10), stars(ten), tmp_path / "out", {"temperature": 1.0, "model": "m"})
    other = Questions(load_task("mmstar"), ten)
    other.rows = other.rows.select(range(9, -1, -1))
    other._names = other._identity(other.rows)
    settings = {"temperature": 0.0, "model": "m"}
    with pytest.raises(SettingsDiffer, match="question 0 was '0' and is '9' now"):
        run_task(Parrot("B" * 10), other, tmp_path / "out", settings)
    run_task(Parrot("B" * 10), other, tmp_path / "out", settings, overwrite=True)
    (tmp_path / "out" / "settings.json").unlink()
    with pytest.raises(SettingsDiffer, match="nobody can tell how it was made"):
        run_task(Parrot("B" * 10), other, tmp_path / "out", settings)


def test_compare(ten, tmp_path):
    run_task(Parrot("AAAAAAAABB"), stars(ten), tmp_path / "a" / "mmstar", {})
    run_task(Parrot("BBBBBBAAAB"), stars(ten), tmp_path / "b" / "mmstar", {})
    found = compare(tmp_path / "a", tmp_path / "b")["mmstar"]
    assert (found["accuracy"]["better"], found["accuracy"]["worse"]) == (6, 1)
    assert found["accuracy"]["difference"] == pytest.approx(0.5) and found["accuracy"]["p_value"] == pytest.approx(
        0.125
    )
    assert found["tas"] is None and set(found["by_type"]) == {"a", "b"}
    run_task(Parrot("B" * 10), stars(ten, 4), tmp_path / "c", {})
    with pytest.raises(TaskError, match="no common task"):
        compare(tmp_path / "a", tmp_path / "c")
    with pytest.raises(TaskError, match="holds no evaluation"):
        compare(tmp_path / "a", tmp_path / "nowhere")


@pytest.fixture(scope="module")
def policy(toy):
    return AutoModelForImageTextToText.from_pretrained(toy.policy, dtype=torch.float32), load_auto_processor(
        toy.policy
    )


def test_every_task_runs_on_a_model(policy, task_files, tmp_path):
    answerer = LocalModel(*policy, max_new_tokens=4, batch_size=8)
    for task in sorted(path.stem for path in tasks_dir().glob("*.yaml")):
        asked = Questions(load_task(task), task_files(task))
        summary = run_task(answerer, asked, tmp_path / task, {})
        assert summary["num_questions"] == len(asked) and summary["failed"] == {}, task
        assert 0 <= summary["accuracy"] <= 1
        if task in ("vstar", "textvqa"):
            assert 0 < summary["tas"] < 1 and summary["rrar"] > 0 and summary["vas"] > 0
            assert (tmp_path / task / "maps.npz").stat().st_size > 300
        else:
            assert summary["tas"] is None and summary["intervals"].keys() == {"length"}


def test_a_picture_that_the_processor_refuses_costs_one_row(policy, task_files, tmp_path):
    model, processor = policy
    rows = [{**written("mmstar")[0]["row"], "index": n} for n in range(4)]
    asked = Questions(load_task("mmstar"), task_files("mmstar", rows))

    class Picky:
        def __getattr__(self, name):
            return getattr(processor, name)

        def apply_chat_template(self, conversations, **options):
            if any("Number 2" in str(turn) for turns in conversations for turn in turns):
                raise ValueError("absolute aspect ratio must be smaller than 200")
            return processor.apply_chat_template(conversations, **options)

    class Marked:
        def answer(self, rows, attention=False):
            named = ({**row, "prompt": [{"role": "user", "content": f"Number {row['index']}"}]} for row in rows)
            return LocalModel(model, Picky(), max_new_tokens=2).answer(named)

    summary = run_task(Marked(), asked, tmp_path / "out", {})
    assert summary["failed"] == {"processor": 1} and summary["num_scored"] == 3


def test_sampling_goes_on_as_it_would_have(policy, toy, tmp_path):
    def run(folder, limit=None):
        asked = Questions(load_task("local"), toy.prepared, limit=limit)
        answerer = LocalModel(*policy, num_samples=2, temperature=1.0, max_new_tokens=5, batch_size=4)
        run_task(answerer, asked, tmp_path / folder, {"t": 1})
        return lines(tmp_path / folder)

    run("parts", limit=4)
    assert run("parts", limit=8) == run("whole", limit=8)


def test_command_lines(toy, task_files, tmp_path, sayo_command):
    """Several tasks, one of them broken; then the comparison."""
    files = task_files("vstar")
    task_files("pope")
    mine = tmp_path / "mine.yaml"
    values = yaml.safe_load((tasks_dir() / "pope.yaml").read_text())
    values["columns"]["question"] = "query"
    mine.write_text(yaml.safe_dump(values))
    words = ("evaluate", toy.policy, "--max-new-tokens", 3, "--data-root", files.parent)
    tasks = f"vstar,pope,{mine}={files.parent / 'pope'}"
    result = sayo_command(*words, "--tasks", tasks, "--out", tmp_path / "a")
    assert result.exit_code == 1 and "no column 'query'" in result.output and "vstar" in result.output
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert set(summary["tasks"]) == {"vstar", "pope"} and len(summary["failed_tasks"]) == 1
    assert summary["tasks"]["vstar"]["num_samples"] == 1 and summary["tasks"]["vstar"]["temperature"] == 0.0
    result = sayo_command(*words, "--tasks", "vstar,pope", "--out", tmp_path / "b", "--seed", 1)
    assert result.exit_code == 0, result.output
    result = sayo_command(*words, "--tasks", "vstar", "--out", tmp_path / "b", "--seed", 2)
    assert result.exit_code == 2 and "seed: 1 there, 2 now" in result.output


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


def test_offline_hub_names_the_way_out(toy, tmp_path, sayo_command):
    result = sayo_command("evaluate", toy.policy, "--tasks", "mmstar", "--out", tmp_path)
    assert result.exit_code == 2 and "hf download Lin-Chen/MMStar" in result.output and "--data-root" in result.output


def test_nothing_to_ask_is_one_clear_line(toy, tmp_path, sayo_command):
    result = sayo_command("evaluate", toy.policy, "--out", tmp_path)
    assert result.exit_code == 2 and "--tasks" in result.output
