"""The bench of the toy world: every arm is a recipe that resolves, and what is measured is not measured again."""

import json
import subprocess
import sys
from functools import partial

import pytest

from benchmarks import toy as toy_bench
from benchmarks.harness import ROOT
from benchmarks.toy_run import ARMS, STARTS
from sayo.recipes import load_recipe


def test_every_arm_is_a_recipe_of_its_own():
    meanings = set()
    for arm in ARMS.values():
        recipe = load_recipe(arm.recipe, arm.overrides or ())
        assert recipe.trainer["max_steps"] == 40 and arm.start in {**STARTS, **ARMS}
        meanings.add((recipe.model_dump_json(), arm.overrides is None, arm.start, str(arm.steering), arm.data))
    assert len(meanings) == len(ARMS)
    for start in STARTS.values():
        assert not load_recipe(start.recipe, start.overrides or ()).rewards


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--arms", "cold start,nothing"), "no nothing"), (("--arms", "steered both"), "add both"), ((), "make demo")],
)
def test_mistakes_are_named(words, message, tmp_path, monkeypatch, capsys):
    if words:
        (tmp_path / "prepared").mkdir()
    monkeypatch.setattr(sys, "argv", ["toy", "--root", str(tmp_path), *words])
    with pytest.raises(SystemExit, match="2"):
        toy_bench.main()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_quick_table_and_nothing_twice(toy, tmp_path):
    root = tmp_path / "demo"
    root.mkdir()
    for name, target in {"prepared": toy.prepared, "policy": toy.policy, "cold_start": toy.policy}.items():
        (root / name).symlink_to(target)
    words = ("--root", root, "--runs", tmp_path / "runs", "--out", tmp_path / "out.json", "--quick")
    bench = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    command = [sys.executable, "-m", "benchmarks.toy", *map(str, words)]
    first = bench(command)
    assert first.returncode == 0, first.stderr
    table = json.loads((tmp_path / "out.json").read_text())
    assert [row["arm"] for row in table["rows"]] == ["cold start", "both"]
    trained = table["rows"][1]
    assert trained["passes_per_step"] == [2.0], "prefill and loss: attention is read while generating"
    assert len(trained["curve"]["by_seed"][0]["attention/tas"]) == 4
    results = sorted((tmp_path / "runs").glob("*/result.json"))
    times = [path.stat().st_mtime_ns for path in results]
    assert bench([*command, "--check"]).returncode == 1, "an untrained policy learns nothing in four steps"
    assert [path.stat().st_mtime_ns for path in results] == times
