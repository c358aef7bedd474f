"""The page: complete, self-contained, safe against what a model may say, and honest about what is missing."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from report.pages import page
from sayo.report import ReportError, build_report


def edit_samples(run: Path, moment: str, change) -> None:
    path = run / "evaluation" / moment / "samples.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        change(record)
    path.write_text("\n".join(json.dumps(record) for record in records))


def test_complete_run(make_run, ablation, tmp_path):
    result = page(make_run(full_log=True), out=tmp_path / "report.html", ablation=ablation, questions=6)
    for text in (
        "Reward by part",
        "Attention on the region",
        "Completion length",
        "Entropy",
        "Looking and answering",
        "runs/demo/cold_start",
        "torch 2.13.0",
        "attention × 0.5",
        "Held-out questions, before and after",
        "Where the policy looks",
        "attention_layers: last",
        "59.7 ± 1.5%",
        "0.910 ± 0.014 (1 missing)",
    ):
        assert text in result.text, text
    assert "Not in this report" not in result.text
    assert len(result.images["Attention on the picture: Before training"]) == 6
    assert len(result.images["Attention on the picture: After training"]) == 6


def test_held_out_table_says_what_the_summaries_say(make_run, tmp_path):
    run = make_run()
    before, after = (json.loads((run / "evaluation" / m / "summary.json").read_text()) for m in ("before", "after"))
    text = page(run, out=tmp_path / "report.html").text
    for kind, first, last in (
        ("All questions 18", before, after),
        *((f"{kind} 6", before["by_type"][kind], after["by_type"][kind]) for kind in before["by_type"]),
    ):
        accuracy = f"{100 * first['accuracy']:.1f}% → {100 * last['accuracy']:.1f}%"
        row = f"{kind} {accuracy} {first['tas']:.3g} → {last['tas']:.3g}"
        assert row in text, row


def test_change_is_paired_over_questions(make_run, tmp_path):
    run = make_run()
    for moment, right in (("before", [0, 0, 0, 1]), ("after", [1, 1, 1, 1])):
        edit_samples(run, moment, lambda record, right=right: record.update(correct=right))
    assert "accuracy +75.0 ± 0.0 points" in page(run, out=tmp_path / "report.html").text


def test_page_needs_nothing_else(make_run, ablation, tmp_path):
    result = page(make_run(full_log=True), out=tmp_path / "report.html", ablation=ablation)
    assert not {"script", "link", "iframe", "object"} & set(result.tags)
    links = [value for _, name, value in result.attributes if name in ("src", "href", "srcset", "data")]
    assert links and all(value.startswith("data:image/") for value in links)
    assert not re.search(r"url\(|@import", (tmp_path / "report.html").read_text())
    for sources in result.images.values():
        for source in sources:
            kind, _, data = source.partition(";base64,")
            content = base64.b64decode(data, validate=True)
            if kind.endswith("svg+xml"):
                ElementTree.fromstring(content)
            else:
                assert content.startswith(b"\xff\xd8")


def test_heat_is_bright_where_the_map_is(make_run, tmp_path):
    """Recover the hottest cell of each map from the pixels of the page."""
    import io

    from PIL import Image
    from sayo.report.gallery import blend

    grey = Image.new("RGB", (80, 40), (128, 128, 128))
    heat = np.zeros((4, 8))
    heat[1, 6] = 1.0
    pixels = np.asarray(blend(grey, heat), dtype=float).sum(axis=-1)
    cells = pixels.reshape(4, 10, 8, 10).mean(axis=(1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == (1, 6)
    result = page(make_run(), out=tmp_path / "report.html", questions=1)
    (source,) = result.images["Attention on the picture: After training"]
    picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert picture.size == (360, 360)


HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}</pre></details> $x_{$ & "quoted"'


def test_hostile_strings_stay_text(make_run, tmp_path):
    run = make_run("a_<b>$run")
    for moment in ("before", "after"):
        edit_samples(
            run,
            moment,
            lambda r: r.update(question=HOSTILE, completions=[HOSTILE] * 2, solution=HOSTILE, question_type=HOSTILE),
        )
    summary = {"accuracy": 0.5, "by_type": {HOSTILE: {"accuracy": 0.5, "num_questions": HOSTILE}}}
    (run / "evaluation" / "after" / "summary.json").write_text(json.dumps(summary))
    state = json.loads((run / "trainer_state.json").read_text())
    for entry in state["log_history"]:
        entry[f"rewards/_{HOSTILE.replace('/', '')}/mean"] = 0.5
        entry["rewards/$x_{$/mean"] = 0.5  # would be broken mathematics to matplotlib
    (run / "trainer_state.json").write_text(json.dumps(state))
    (run / "environment.json").write_text(json.dumps({HOSTILE: {HOSTILE: HOSTILE}}))
    (run / "recipe.yaml").write_text(f"model: {{name_or_path: {json.dumps(HOSTILE)}}}\n# {HOSTILE}\n")
    rows = [{"arm": HOSTILE, "seeds": [0, 1], "accuracy": [0.1, 0.2], HOSTILE: [1, 2]}]
    (tmp_path / "hostile.json").write_text(json.dumps({"rows": rows, "meta": {HOSTILE: HOSTILE}}))
    result = page(run, out=tmp_path / "report.html", ablation=tmp_path / "hostile.json")
    assert "script" not in result.tags
    assert not [a for a in result.attributes if a[1].startswith("on")]
    assert all(
        value.startswith("data:image/") for tag, name, value in result.attributes if tag == "img" and name == "src"
    )
    assert '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}' in result.text


def test_answer_tags_of_a_completion_are_visible(make_run, tmp_path):
    assert "<answer>" in page(make_run(), out=tmp_path / "report.html").text


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("trainer_state.json", "the training log"),
        ("recipe.yaml", "the resolved recipe"),
        ("environment.json", "the environment"),
        ("evaluation/before", "held-out answers before training"),
        ("evaluation/after", "held-out answers after training"),
        ("evaluation/after/summary.json", "evaluation/after/summary.json"),
        ("evaluation/after/samples.jsonl", "evaluation/after/samples.jsonl"),
        ("evaluation/before/maps.npz", "attention maps (evaluation/before/maps.npz)"),
        ("evaluation/before/images/0.png", "the image of question q0"),
    ],
)
def test_missing_part_is_named(make_run, tmp_path, gone, told):
    run = make_run()
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if gone.endswith("0.png"):
        (run / "evaluation" / "after" / "images" / "0.png").unlink()
    text = page(run, out=tmp_path / "report.html").text
    assert told in text.partition("Not in this report")[2]


@pytest.mark.parametrize(
    "damaged",
    [
        "trainer_state.json",
        "environment.json",
        "recipe.yaml",
        "evaluation/after/summary.json",
        "evaluation/after/samples.jsonl",
        "evaluation/after/maps.npz",
        "evaluation/before/images/0.png",
    ],
)
def test_damaged_part_is_named(make_run, tmp_path, damaged):
    run = make_run()
    (run / damaged).write_text('{"torn": [')
    assert "cannot be read" in page(run, out=tmp_path / "report.html").text


def test_nulls_and_odd_maps_are_left_out(make_run, tmp_path):
    run = make_run()
    edit_samples(
        run, "after", lambda r: r.update(tas=[None], map=None, image=None, regions=[{"box": None}], correct=[])
    )
    maps = {"q0": np.zeros((4, 4), np.float32), "q1": np.full((4, 4), np.nan, np.float32), "q2": np.ones(3)}
    np.savez(run / "evaluation" / "before" / "maps.npz", **maps)
    result = page(run, out=tmp_path / "report.html")
    assert "3 maps of evaluation/before/maps.npz that are empty or not finite" in result.text
    assert "no box of four numbers" in result.text and "nan" not in result.text.lower().replace("finance", "")
    assert "Attention on the picture: Before training" not in result.images


def test_image_outside_the_folder_is_not_shown(make_run, tmp_path):
    run = make_run()
    for moment in ("before", "after"):
        edit_samples(run, moment, lambda r: r.update(image="../../../secret.png"))
    assert "outside the evaluation folder" in page(run, out=tmp_path / "report.html").text


def test_several_runs_share_charts(make_run, tmp_path):
    first, second = make_run("both"), make_run("accuracy", gain=0.2, seed=1)
    result = page(first, second, out=tmp_path / "report.html")
    assert "2 runs" in result.text and "Reward: attention" in result.text
    assert sum("Entropy" in alt for alt in result.images) == 1
    assert "Resolved recipe of accuracy" in result.text


def test_runs_of_the_same_name_are_told_apart(make_run, tmp_path):
    result = page(make_run("one/toy"), make_run("two/toy", seed=1), out=tmp_path / "report.html")
    assert "one/toy" in result.text and "two/toy" in result.text


def test_log_of_the_newest_checkpoint_is_read(make_run, tmp_path):
    run = make_run()
    state = json.loads((run / "trainer_state.json").read_text())
    (run / "trainer_state.json").unlink()
    for steps in (9, 20):
        checkpoint = run / f"checkpoint-{steps}"
        checkpoint.mkdir()
        part = {"global_step": steps, "log_history": state["log_history"][:steps]}
        (checkpoint / "trainer_state.json").write_text(json.dumps(part))
    assert re.search(r"Steps 20\b", page(run, out=tmp_path / "report.html").text)


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [{"seeds": []}]}', '{"rows": 3}'])
def test_bad_ablation_is_an_error(make_run, tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ReportError, match="no ablation file"):
        build_report([make_run()], tmp_path / "report.html", ablation=tmp_path / "bad.json")


def test_tokens_that_are_no_grid_are_not_drawn(make_run, tmp_path):
    run = make_run()
    for moment in ("before", "after"):
        np.savez(run / "evaluation" / moment / "maps.npz", q0=np.ones((1, 16), np.float32))
    result = page(run, out=tmp_path / "report.html", questions=1)
    assert "no single grid" in result.text and "Attention on the picture: After training" not in result.images


def test_single_evaluation_counts_as_after(make_run, tmp_path):
    run = make_run()
    shutil.copytree(run / "evaluation" / "after", run / "moved")
    shutil.rmtree(run / "evaluation")
    (run / "moved").rename(run / "evaluation")
    result = page(run, out=tmp_path / "report.html", questions=1)
    assert "– → " in result.text and len(result.images["Attention on the picture: After training"]) == 1


def test_runs_from_the_same_start_are_shown_side_by_side(make_run, tmp_path):
    first, second = make_run("both"), make_run("accuracy", gain=0.2, seed=1)
    start = first / "evaluation" / "before"
    start.rename(tmp_path / "start")
    shutil.rmtree(second / "evaluation" / "before")
    result = page(first, second, out=tmp_path / "report.html", before=tmp_path / "start", questions=2)
    for policy in ("Before training", "both", "accuracy"):
        assert len(result.images[f"Attention on the picture: {policy}"]) == 2
    summaries = [tmp_path / "start", first / "evaluation" / "after", second / "evaluation" / "after"]
    for name, folder in zip(("Before training", "both", "accuracy"), summaries, strict=True):
        accuracy = json.loads((folder / "summary.json").read_text())["accuracy"]
        assert f"{name} 18 {100 * accuracy:.1f}%" in result.text
    assert "Not in this report" not in result.text


def test_evaluation_folder_that_does_not_exist_is_an_error(make_run, tmp_path):
    with pytest.raises(ReportError, match="no evaluation folder"):
        build_report([make_run()], tmp_path / "report.html", before=tmp_path / "nowhere")
