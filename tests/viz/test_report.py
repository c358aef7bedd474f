"""The page: complete, self-contained, safe against what a model may say, and honest about what is missing."""

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
from viz.report_runs import write_records, write_run

from sayo.evaluation.journal import read_records
from sayo.viz.report import ReportError, build_report
from sayo.viz.report.charts import _bounds

ON_PICTURE = "Attention on the picture: "


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


@pytest.fixture
def make_run(tmp_path):
    """`make_run(name, ...)`: a complete run folder (see `write_run`)."""
    return lambda name="toy", **options: write_run(tmp_path / name, **options)


@pytest.fixture
def page(tmp_path):
    """`page(*runs, questions=1, ...)`: the parsed report of these runs, `report.html` in `tmp_path`."""
    return lambda *runs, **options: Page(build_report(runs, tmp_path / "report.html", **{"questions": 1, **options}))


def edit_samples(run: Path, change, moments=("before", "after")) -> None:
    for moment in moments:
        path = run / "evaluation" / moment / "samples.jsonl"
        records = read_records(path)
        for record in records:
            change(record)
        write_records(path, records)


def summary_of(run: Path, moment: str) -> dict:
    return json.loads((run / "evaluation" / moment / "summary.json").read_text())


def test_a_complete_run_on_a_page_that_needs_nothing_else(make_run, page, tmp_path):
    run = make_run(full_log=True)
    result = page(run, questions=6)
    accuracies, scores = (
        [summary_of(run, moment)[key] for moment in ("before", "after")] for key in ("accuracy", "tas")
    )
    headline = f"Accuracy {accuracies[0]:.1%} → {accuracies[1]:.1%}, TAS {scores[0]:.3g} → {scores[1]:.3g}"
    assert f"{headline} on 18 held-out questions TAS, the target attention score, is" in result.text
    targets = [value[1:] for tag, name, value in result.attributes if (tag, name) == ("a", "href")]
    assert targets == ["held-out", "looks", "training", "details"]
    assert set(targets) <= {value for _, name, value in result.attributes if name == "id"}
    focusable = [value for tag, name, value in result.attributes if (tag, name) == ("div", "tabindex")]
    assert len(focusable) == result.tags.count("table") > 3
    for text in ("Reward by part", "Attention on the region", "Completion length", "Entropy", "Held-out questions"):
        assert text in result.text, text
    for text in ("runs/demo/cold_start", "torch: 2.13.0", "attention × 0.5", "attention_layers: last", "<answer>"):
        assert text in result.text, text
    assert "Not in this report" not in result.text
    assert [len(result.images[f"{ON_PICTURE}{moment} training"]) for moment in ("before", "after")] == [6, 6]
    assert not {"script", "link", "iframe", "object"} & set(result.tags)
    links = [value for _, name, value in result.attributes if name in ("src", "href", "srcset", "data")]
    assert links and all(value.startswith(("data:image/", "#")) for value in links)
    assert not re.search(r"url\(|@import", (tmp_path / "report.html").read_text())
    for source in [source for sources in result.images.values() for source in sources]:
        kind, _, data = source.partition(";base64,")
        content = base64.b64decode(data, validate=True)
        if kind.endswith("svg+xml"):
            ElementTree.fromstring(content)
        else:
            assert content.startswith((b"\xff\xd8", b"\x89PNG"))


def test_heat_is_bright_where_the_map_is(make_run, tmp_path):
    """The veil is thinnest over the cell with the largest value of the map."""
    run = make_run()
    html = build_report([run], tmp_path / "report.html", questions=1).read_text()
    maps = np.load(run / "evaluation" / "after" / "maps.npz")["q0"]
    _, after = re.findall(r'src="data:image/png;base64,([^"]+)" alt="" class="veil"', html)
    heat = np.asarray(Image.open(io.BytesIO(base64.b64decode(after))), dtype=float)[..., 3]
    cells = heat.reshape(4, heat.shape[0] // 4, 4, heat.shape[1] // 4).mean(axis=(1, 3))
    assert cells.argmin() == maps.argmax()


HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}</pre></details> $x_{$ & "quoted"'


def test_hostile_strings_stay_text(make_run, page):
    run = make_run("a_<b>$run")
    hostile = dict.fromkeys(("question", "solution", "question_type"), HOSTILE)
    edit_samples(run, lambda record: record.update(hostile, completions=[HOSTILE] * 2))
    summary = {"accuracy": 0.5, "by_type": {HOSTILE: {"accuracy": 0.5, "num_questions": HOSTILE}}}
    (run / "evaluation" / "after" / "summary.json").write_text(json.dumps(summary))
    state = json.loads((run / "trainer_state.json").read_text())
    for entry in state["log_history"]:
        entry[f"rewards/_{HOSTILE.replace('/', '')}/mean"] = 0.5
        entry["rewards/$x_{$/mean"] = 0.5  # would be broken mathematics to matplotlib
    (run / "trainer_state.json").write_text(json.dumps(state))
    (run / "environment.json").write_text(json.dumps({HOSTILE: {HOSTILE: HOSTILE}}))
    (run / "recipe.yaml").write_text(f"model: {{name_or_path: {json.dumps(HOSTILE)}}}\n# {HOSTILE}\n")
    (run / "ablation.json").write_text(json.dumps({"rows": [{"arm": HOSTILE, "seeds": [0], HOSTILE: [1]}]}))
    result = page(run, ablation=run / "ablation.json")
    assert "script" not in result.tags
    assert not [name for _, name, _ in result.attributes if name.startswith("on")]
    assert all(source.startswith("data:image/") for sources in result.images.values() for source in sources)
    assert '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}' in result.text


PARTS = {
    "trainer_state.json": "the training log",
    "recipe.yaml": "the resolved recipe",
    "environment.json": "the environment",
    "evaluation/before": "held-out answers before training",
    "evaluation/after": "held-out answers after training",
}
FILES = [f"evaluation/after/{name}" for name in ("summary.json", "samples.jsonl", "maps.npz")]


@pytest.mark.parametrize("gone", PARTS)
def test_missing_part_is_named(make_run, page, gone):
    run = make_run()
    (run / gone).rename(run / "elsewhere")
    assert PARTS[gone] in page(run).text.partition("Not in this report")[2]


@pytest.mark.parametrize("damaged", [*list(PARTS)[:3], *FILES])
def test_damaged_part_is_named(make_run, page, damaged):
    run = make_run()
    (run / damaged).write_text('{"torn": [\n')
    with pytest.raises(ReportError, match=f"{damaged} cannot be read"):
        page(run)


def test_parts_of_an_evaluation_may_be_missing(make_run, page, tmp_path):
    """Also a picture outside of the folder, which is not shown."""
    run = make_run()
    for name in ("summary.json", "maps.npz", "images/0.png"):
        (run / "evaluation" / "after" / name).unlink()
    edit_samples(run, lambda r: r.update(tas=[None], map=None, image=None, regions=[], correct=[]), ["after"])
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    edit_samples(run, lambda record: record.update(image="../../../secret.png"), ["before"])
    maps = {"q0": np.zeros((4, 4), np.float32), "q1": np.full((4, 4), np.nan, np.float32)}
    np.savez(run / "evaluation" / "before" / "maps.npz", **maps)
    result = page(run, questions=2)
    assert "Where the policy looks" in result.text and "nan" not in result.text.lower()
    assert not any(alt.startswith((ON_PICTURE, "The picture with")) for alt in result.images)


def test_log_of_the_newest_checkpoint_and_a_single_evaluation_are_read(make_run, page):
    run = make_run()
    state = json.loads((run / "trainer_state.json").read_text())
    (run / "trainer_state.json").unlink()
    for steps in (9, 20):
        (run / f"checkpoint-{steps}").mkdir()
        part = {"global_step": steps, "log_history": state["log_history"][:steps]}
        (run / f"checkpoint-{steps}" / "trainer_state.json").write_text(json.dumps(part))
    (run / "evaluation").rename(run / "moved")
    (run / "moved" / "after").rename(run / "evaluation")  # a single one counts as after training
    result = page(run)
    assert re.search(r"Steps 20\b", result.text) and "held-out answers before training" in result.text
    assert len(result.images[f"{ON_PICTURE}after training"]) == 1


def test_runs_from_the_same_start_are_shown_side_by_side(make_run, page):
    first, second = make_run("both"), make_run("accuracy", gain=0.2, seed=1)
    start = second / "evaluation" / "before"
    shutil.rmtree(start)
    shutil.copytree(first / "evaluation" / "before", start)  # the same answers, wherever they lie
    result = page(first, second, questions=2)
    policies = {"before training": (first, "before"), "both": (first, "after"), "accuracy": (second, "after")}
    for name, place in policies.items():
        assert len(result.images[ON_PICTURE + name]) == 2
        assert f"{name} 18 {summary_of(*place)['accuracy']:.1%}" in result.text
    assert "Not in this report" not in result.text and result.text.count("before training 18") == 1


def test_bands_stay_where_the_values_can_be():
    """Values in [0, 1] with a mean of .95 and a deviation of .22 (19 of 20 right) do not reach 1.17."""
    means = np.array([0.5, 0.95])
    assert _bounds(means, np.array([0.5, 0.22])) == (0, 1)
    assert _bounds(means - 1, np.array([0.5, 0.22])) == (-1, 1)
    assert _bounds(means, np.array([0.5, 3.0])) == (-np.inf, np.inf)
    assert _bounds(means + 1, np.array([0.1, 0.1])) == (-np.inf, np.inf)


def test_rewards_share_charts_and_runs_of_the_same_name_are_told_apart(make_run, page):
    single = page(make_run(full_log=True), questions=0)
    captions = [alt for alt in single.images if alt.startswith(("Reward by part", "Share of the gradient by part"))]
    assert len(captions) == 2 and "Dashed: held out, during training." in captions[0]
    several = page(*(make_run(name, full_log=True) for name in ("one/toy", "two/toy")), questions=0)
    assert "one/toy" in several.text and "two/toy" in several.text
    charts = [alt.split(".")[0] for alt in several.images]
    for part in ("accuracy", "attention", "format"):
        assert f"Reward: {part}" in charts and f"Share of the gradient: {part}" in charts
    plain = page(make_run("plain"), questions=0)
    assert not any("Share of the gradient" in alt or "Dashed" in alt for alt in plain.images)


def test_tables_of_the_evaluations(make_run, page):
    """All questions with intervals, every type, every layer, and which layer to reward."""
    run = make_run()
    text = page(run).text
    for moment in ("before", "after"):
        summary = summary_of(run, moment)
        low, high = (100 * end for end in summary["accuracy_interval"])
        shown = f"{moment} training 18 {summary['accuracy']:.1%} [{low:.1f}, {high:.1f}] {summary['tas']:.3g} ["
        assert shown in text
        for kind in summary["by_type"].values():
            assert f"{moment} training 6 {kind['accuracy']:.1%} {kind['tas']:.3g}" in text
    before, after = text.split("TAS by layer, ")[1:]
    assert (
        "Layer TAS Right answers Wrong answers AUC 0 0.45 0.55 – 0.5 [0.4, 0.6] 3 0.45 0.55 – 0.625 [0.525," in before
    )
    assert "In no layer do right answers clearly" in before
    assert "3 0.9 1 – 0.85 [0.75, 0.95]" in after and "trainer.attention_layers=3" in after


def test_arms_of_an_ablation(make_run, page, tmp_path):
    arms = tmp_path / "ablation.json"
    rows = [
        {"arm": "cold start", "label": "x", "seeds": [0], "accuracy": [0.5], "by_type": {"accuracy": [0.1]}},
        {"arm": "both", "seeds": [0, 1, 2], "accuracy": [0.7, 0.8, None], "tas": [0.6, 0.7, 0.8], "vas": [1e6, 3e6]},
    ]
    arms.write_text(json.dumps({"rows": rows, "meta": {}}))
    text = page(make_run(), ablation=arms).text
    assert "Ablation Arm Seeds Accuracy TAS VAS cold start 1 50.0% – – both 3 75.0% ± 7.1 0.7 ± 0.1 2e+06 ±" in text
    assert "Mean ± standard deviation over seeds." in text
    for damaged in ('{"rows": [{}]}', '{"rows": [1]}', "[]", "{"):
        arms.write_text(damaged)
        with pytest.raises(ReportError, match=r"ablation\.json is not an ablation"):
            page(make_run(damaged), ablation=arms)


def test_command(make_run, tmp_path, sayo_command):
    (tmp_path / "arms.json").write_text('{"rows": [{"arm": "both", "seeds": [0], "accuracy": [0.5]}]}')
    files = ("--out", tmp_path / "pages" / "report.html", "--ablation", tmp_path / "arms.json")
    result = sayo_command("report", make_run(), "--questions", 2, *files)
    assert result.exit_code == 0 and Path(result.output.strip()) == files[1]
    assert "Ablation" in files[1].read_text()
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "nothing to report"), ("nowhere", "is not a folder")):
        result = sayo_command("report", tmp_path / folder, "--out", tmp_path / "none.html")
        assert result.exit_code == 2 and message in result.output
    assert not (tmp_path / "none.html").exists()
