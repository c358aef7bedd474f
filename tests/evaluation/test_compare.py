"""Two results against each other: folders of `sayo evaluate`, and of lmms-eval as its 0.7.3 writes them."""

import json
import shutil

import datasets
import pytest
from evaluation.conftest import Parrot
from PIL import Image

from sayo.evaluation.compare import CompareError, compare_results
from sayo.evaluation.evaluate import evaluate


def test_two_evaluations(ten, tmp_path):
    for name, texts in (("a", "AAAAAAAABB"), ("b", "BBBBBBAAAB")):
        evaluate(Parrot(texts), ten, tmp_path / name)
    figures = compare_results(tmp_path / "a", tmp_path / "b")["questions"]
    accuracy = figures["accuracy"]
    assert (accuracy["better"], accuracy["worse"]) == (6, 1)
    assert accuracy["difference"] == pytest.approx(0.5) and accuracy["p_value"] == pytest.approx(0.125)
    assert figures["tas"] is None and set(figures["by_type"]) == {"a", "b"}
    evaluate(Parrot("B" * 10), ten.select(range(4)), tmp_path / "c" / "named")
    with pytest.raises(CompareError, match="share no task"):
        compare_results(tmp_path / "a", tmp_path / "c")
    with pytest.raises(CompareError, match="holds no results"):
        compare_results(tmp_path / "a", tmp_path / "nowhere")
    assert compare_results(tmp_path / "b", tmp_path / "b")["questions"]["accuracy"]["p_value"] == 1.0


def test_the_layer_that_was_trained_is_read_shown_and_compared(toy, tmp_path, sayo_command):
    trained, options = shutil.copytree(toy.policy, tmp_path / "trained"), ("--limit", 6, "--max-new-tokens", 4)
    recipe = {"rewards": {"attention": {"function": "x"}}, "trainer": {"attention_layers": 1}}
    (trained / "recipe.yaml").write_text(json.dumps(recipe))
    for name, model in (("before", toy.policy), ("after", trained)):
        greedy = (*options, "--temperature", 0, "--num-samples", 1, "--out", tmp_path / name)
        shown = sayo_command("evaluate", model, "--data", toy.prepared, *greedy)
        assert f"attention (layer {2 if name == 'before' else 1})" in shown.output
    figures = compare_results(tmp_path / "before", tmp_path / "after")["questions"]
    assert figures["tas_layers"] == [1] and figures["warnings"] == []
    assert figures["tas"]["num_questions"] > 0
    assert figures["tas"]["difference"] == pytest.approx(0)  # the same weights, read at the same layer
    assert "questions: TAS (layer 1)" in sayo_command("compare", tmp_path / "before", tmp_path / "after").output
    picture = next((toy.world / "images").iterdir())
    looked = sayo_command("look", trained, picture, "Where?", "--out", tmp_path / "x.html", "--max-new-tokens", 2)
    assert "layers [1])" in looked.output
    sayo_command("trend", trained, "--data", toy.prepared, *options, "--out", tmp_path)
    assert json.loads((tmp_path / "trend.json").read_text())["summary"]["layers"] == 1


def test_several_layers_are_compared_only_with_themselves(toy, tmp_path, sayo_command):
    for name in ("0,1", "all"):
        options = ("--limit", 6, "--max-new-tokens", 4, "--num-samples", 1, "--layers", name)
        sayo_command("evaluate", toy.policy, "--data", toy.prepared, *options, "--out", tmp_path / name)
    figures = compare_results(tmp_path / "0,1", tmp_path / "all")["questions"]
    assert figures["tas"] is None
    assert figures["warnings"] == ["layers: [0, 1] in A, [0, 1, 2] in B; TAS was not compared"]
    assert compare_results(tmp_path / "all", tmp_path / "all")["questions"]["tas"]["difference"] == 0


def changed(rows, **columns):
    """The rows with other values in some columns, and a question, which two results need in common."""
    return datasets.Dataset.from_list([{**row, "question": "What?", **columns} for row in rows])


@pytest.mark.parametrize(
    ("columns", "settings", "warning"),
    [
        ({}, {"temperature": 1.0}, "temperature: 0.0 in A, 1.0 in B"),
        ({}, {"user_suffix": "Think."}, "user_suffix: None in A, 'Think.' in B"),
        ({"prompt": [{"role": "user", "content": "Now what?"}]}, {}, "10 questions were asked with other prompts"),
        ({}, {"model": "other", "model_files": "f", "seed": 1, "steer": "vrga", "data": "elsewhere"}, None),
    ],
)
def test_other_settings_and_prompts_are_said(ten, tmp_path, sayo_command, columns, settings, warning):
    usual = {"model": "one", "temperature": 0.0, "user_suffix": None, "seed": 0}
    evaluate(Parrot("B" * 10), changed(ten), tmp_path / "a", usual)
    evaluate(Parrot("B" * 10), changed(ten, **columns), tmp_path / "b", usual | settings)
    result = sayo_command("compare", tmp_path / "a", tmp_path / "b")
    shown = " ".join(result.output.split())
    assert result.exit_code == 0 and (
        f"not the same in both: {warning}" in shown if warning else "not the" not in shown
    )


@pytest.mark.parametrize(
    "columns", [{"solution": "C"}, {"question": "Which?"}, {"images": [Image.new("RGB", (48, 64), "red")]}]
)
def test_other_data_under_the_same_names_are_refused(ten, tmp_path, sayo_command, columns):
    evaluate(Parrot("B" * 10), changed(ten), tmp_path / "a")
    evaluate(Parrot("B" * 10), changed(ten, **columns), tmp_path / "b")
    result = sayo_command("compare", tmp_path / "a", tmp_path / "b")
    assert result.exit_code == 2 and "question 0 is" in " ".join(result.output.split())


def lmms_eval_folder(folder, samples, time="20261128_230450"):
    """What `lmms_eval --log_samples` leaves behind: `samples` maps tasks to (metric, values of the metric)."""
    folder = folder / "bench__model"
    folder.mkdir(parents=True, exist_ok=True)
    better = {task: {"length": False, metric: True} for task, (metric, _) in samples.items()}
    (folder / f"{time}_results.json").write_text(json.dumps({"higher_is_better": better}))
    for task, (metric, values) in samples.items():
        lines = [
            {"doc_id": number, "target": "red", "resps": "red", "length": 3, metric: value, "doc_hash": "74"}
            for number, value in enumerate(values)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{time}_samples_{task}.jsonl").write_text(text)
    return folder.parent


def test_two_folders_of_lmms_eval(tmp_path, sayo_command):
    """Scores are kept in another form by almost every task: of ai2d, mmstar, mathvision, mmerealworld, charxiv."""

    def samples(right):
        answers = ["A" if score else "B" for score in right]
        return {
            "toy_samples_local": ("exact_match", right),
            "mmstar": ("average", [{"question_id": 1, "score": score} for score in right]),
            "mathvision_test": ("mathvision_standard_eval", [{"response": ["x"], "scores": [bool(s)]} for s in right]),
            "mmerealworld": ("mme_realworld_score", [{"pred_answer": a, "answer": "A"} for a in answers]),
            "charxiv": ("reasoning_acc", [{"resp_key": "7", "data": {}} for _ in right]),
        }

    a = lmms_eval_folder(tmp_path / "a", samples([0.0, 1.0, 0.0, 0.0]))
    lmms_eval_folder(tmp_path / "b", samples([0.0, 0.0, 0.0, 0.0]), time="20261101_000000")  # replaced by a later run
    b = lmms_eval_folder(tmp_path / "b", samples([1.0, 1.0, 1.0, 0.0]))
    results = compare_results(a, b)
    for task in ("toy_samples_local", "mmstar", "mathvision_test", "mmerealworld"):
        accuracy = results[task]["accuracy"]
        assert (accuracy["mean_a"], accuracy["mean_b"], accuracy["better"]) == (0.25, 0.75, 2), task
        assert accuracy["test"] == "McNemar, exact" and accuracy["p_value"] == 0.5
    assert results["charxiv"]["accuracy"] is None and results["charxiv"]["not_scored_in_both"] == 4
    result = sayo_command("compare", a, b, "--out", tmp_path / "difference.json")
    assert result.exit_code == 0 and "charxiv: 4 questions not compared: not scored in both" in result.output
    assert json.loads((tmp_path / "difference.json").read_text()).keys() == results.keys()
