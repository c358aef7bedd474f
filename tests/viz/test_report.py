"""The page: complete, self-contained, safe against what a model may say, and honest about what is missing."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from sayo.viz.report import ReportError, build_report


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.attributes, self.images, self.words = [], [], {}, []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag == "img":
            pair = dict(attributes)
            self.images.setdefault(pair["alt"], []).append(pair["src"])

    def handle_data(self, data):
        self.words.append(data)


def page(*runs: Path, out: Path, **options) -> Page:
    return Page(build_report(runs, out, **{"questions": 1, **options}))


def edit_samples(run: Path, moment: str, change) -> None:
    path = run / "evaluation" / moment / "samples.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        change(record)
    path.write_text("\n".join(json.dumps(record) for record in records))


def test_complete_run(make_run, tmp_path):
    result = page(make_run(full_log=True), out=tmp_path / "report.html", questions=6)
    for text in (
        "Reward by part",
        "Attention on the region",
        "Completion length",
        "Entropy",
        "runs/demo/cold_start",
        "torch: 2.13.0",
        "attention × 0.5",
        "Held-out questions",
        "Where the policy looks",
        "attention_layers: last",
    ):
        assert text in result.text, text
    assert "Not in this report" not in result.text
    assert len(result.images["Attention on the picture: before training"]) == 6
    assert len(result.images["Attention on the picture: after training"]) == 6


def test_page_needs_nothing_else(make_run, tmp_path):
    result = page(make_run(full_log=True), out=tmp_path / "report.html")
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
                assert content.startswith((b"\xff\xd8", b"\x89PNG"))


def test_heat_is_bright_where_the_map_is(make_run, tmp_path):
    """The brightest cell of the picture over the image is the largest value of the map."""
    run = make_run()
    html = build_report([run], tmp_path / "report.html", questions=1).read_text()
    maps = np.load(run / "evaluation" / "after" / "maps.npz")["q0"]
    _, after = re.findall(r'src="data:image/png;base64,([^"]+)" alt="" class="heat"', html)
    heat = np.asarray(Image.open(io.BytesIO(base64.b64decode(after))), dtype=float)[..., :3].sum(axis=-1)
    cells = heat.reshape(4, heat.shape[0] // 4, 4, heat.shape[1] // 4).mean(axis=(1, 3))
    assert cells.argmax() == maps.argmax()


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
    result = page(run, out=tmp_path / "report.html")
    assert "script" not in result.tags
    assert not [a for a in result.attributes if a[1].startswith("on")]
    assert all(
        value.startswith("data:image/") for tag, name, value in result.attributes if tag == "img" and name == "src"
    )
    assert '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}' in result.text


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("trainer_state.json", "the training log"),
        ("recipe.yaml", "the resolved recipe"),
        ("environment.json", "the environment"),
        ("evaluation/before", "held-out answers before training"),
        ("evaluation/after", "held-out answers after training"),
    ],
)
def test_missing_part_is_named(make_run, tmp_path, gone, told):
    run = make_run()
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
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
    ],
)
def test_damaged_part_is_named(make_run, tmp_path, damaged):
    run = make_run()
    (run / damaged).write_text('{"torn": [')
    with pytest.raises(ReportError, match=f"{damaged} cannot be read"):
        build_report([run], tmp_path / "report.html")


def test_parts_of_an_evaluation_may_be_missing(make_run, tmp_path):
    run = make_run()
    for name in ("summary.json", "maps.npz", "images/0.png"):
        (run / "evaluation" / "after" / name).unlink()
    edit_samples(run, "after", lambda r: r.update(tas=[None], map=None, image=None, regions=[], correct=[]))
    maps = {"q0": np.zeros((4, 4), np.float32), "q1": np.full((4, 4), np.nan, np.float32)}
    np.savez(run / "evaluation" / "before" / "maps.npz", **maps)
    result = page(run, out=tmp_path / "report.html", questions=2)
    assert "Where the policy looks" in result.text and "nan" not in result.text.lower()
    assert not any(alt.startswith("Attention on the picture") for alt in result.images)


def test_image_outside_the_folder_is_not_shown(make_run, tmp_path):
    run = make_run()
    for moment in ("before", "after"):
        edit_samples(run, moment, lambda r: r.update(image="../../../secret.png"))
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    assert "The picture with the regions of this question" not in page(run, out=tmp_path / "report.html").images


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


def test_single_evaluation_counts_as_after(make_run, tmp_path):
    run = make_run()
    shutil.copytree(run / "evaluation" / "after", run / "moved")
    shutil.rmtree(run / "evaluation")
    (run / "moved").rename(run / "evaluation")
    result = page(run, out=tmp_path / "report.html", questions=1)
    assert "held-out answers before training" in result.text
    assert len(result.images["Attention on the picture: after training"]) == 1


def test_runs_from_the_same_start_are_shown_side_by_side(make_run, tmp_path):
    first, second = make_run("both"), make_run("accuracy", gain=0.2, seed=1)
    start = second / "evaluation" / "before"
    shutil.rmtree(start)
    start.symlink_to(first / "evaluation" / "before")
    result = page(first, second, out=tmp_path / "report.html", questions=2)
    for policy in ("before training", "both", "accuracy"):
        assert len(result.images[f"Attention on the picture: {policy}"]) == 2
    folders = [first / "evaluation" / "before", first / "evaluation" / "after", second / "evaluation" / "after"]
    for name, folder in zip(("before training", "both", "accuracy"), folders, strict=True):
        accuracy = json.loads((folder / "summary.json").read_text())["accuracy"]
        assert f"{name} 18 {100 * accuracy:.1f}%" in result.text
    assert "Not in this report" not in result.text


def test_rewards_share_charts(make_run, tmp_path):
    single = page(make_run(full_log=True), out=tmp_path / "report.html", questions=0)
    captions = [alt for alt in single.images if alt.startswith(("Reward by part", "Share of the gradient by part"))]
    assert len(captions) == 2 and "Dashed: held out, during training." in captions[0]
    runs = [make_run(name, full_log=True, gain=gain) for name, gain in (("a", 0.1), ("b", 0.4))]
    charts = [alt.split(".")[0] for alt in page(*runs, out=tmp_path / "report.html", questions=0).images]
    for part in ("accuracy", "attention", "format"):
        assert f"Reward: {part}" in charts and f"Share of the gradient: {part}" in charts
    plain = page(make_run("plain"), out=tmp_path / "report.html", questions=0)
    assert not any("Share of the gradient" in alt or "Dashed" in alt for alt in plain.images)


def test_intervals_of_the_evaluations(make_run, tmp_path):
    run = make_run()
    text = page(run, out=tmp_path / "report.html").text
    for moment in ("before", "after"):
        summary = json.loads((run / "evaluation" / moment / "summary.json").read_text())
        low, high = (100 * end for end in summary["accuracy_interval"])
        shown = f"{moment} training 18 {100 * summary['accuracy']:.1f}% [{low:.1f}, {high:.1f}] {summary['tas']:.3g} ["
        assert shown in text
        for kind in summary["by_type"].values():
            assert f"{moment} training 6 {100 * kind['accuracy']:.1f}% {kind['tas']:.3g}" in text


def test_command(make_run, tmp_path, sayo_command):
    result = sayo_command("report", make_run(), "--out", tmp_path / "pages" / "report.html", "--questions", 2)
    assert result.exit_code == 0 and Path(result.output.strip()) == tmp_path / "pages" / "report.html"
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "nothing to report"), ("nowhere", "is not a folder")):
        result = sayo_command("report", tmp_path / folder, "--out", tmp_path / "none.html")
        assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "none.html").exists()
