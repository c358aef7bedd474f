"""The command line as a whole: version, order, what is listed and copied, and launches that cannot be."""

import subprocess
import sys
from importlib import metadata

import pytest
import yaml
from toy_runs import recipe_values, write_recipe
from typer.main import get_command

from benchmarks.harness import ROOT
from sayo.cli import ORDER, app


def test_version_and_the_order_of_the_work(sayo_command):
    assert sayo_command("--version").output.strip() == metadata.version("sayo-vlm")
    assert sorted(ORDER.split()) == sorted(get_command(app).commands)
    helped = sayo_command("--help").output
    places = [helped.index(f"│ {name} ") for name in ("prepare", "train", "launch", "evaluate", "toy")]
    assert places == sorted(places)


def test_what_is_shipped_is_listed_and_copied(sayo_command, tmp_path):
    listed = sayo_command("ls").output
    for name in ("sayo_recommended", "recommended", "vppo", "zero2", "visual-genome", "qwen3_vl_8b"):
        assert f"\n  {name} " in listed
    copied = sayo_command("cp", "accelerate/zero2", tmp_path / "mine.yaml")
    assert "sayo launch --sharding" in copied.output
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["deepspeed_config"]["zero_stage"] == 2
    assert sayo_command("cp", "accelerate/zero9", tmp_path / "other.yaml").exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sharding", "zero9"], "--sharding zero9: no such file, nor one of cpu, ddp, fsdp2, zero1, zero2, zero3."),
        (["trainer.use_cpu=false", "trainer.bf16=true"], "No GPU is visible here. On the CPU add: trainer.use_cpu"),
    ],
)
def test_a_launch_that_cannot_be_is_one_line(words, message, sayo_command, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = sayo_command("launch", "--config-name", "toy", *words)
    assert done.exit_code == 2 and done.stderr.startswith(f"error: {message}")


def test_training_export_and_evaluation_do_without_deepspeed_and_wandb(toys, tmp_path):
    run, out = str(tmp_path / "run"), str(tmp_path / "model")
    data = ["--data", str(toys.data["qwen3_vl"]), "--split", "train", "--limit", "2", "--max-new-tokens", "2"]
    commands = [
        ["train", "--config-name", str(write_recipe(tmp_path, recipe_values(toys, tmp_path / "run")))],
        ["export", run, "--out", out],
        ["evaluate", out, *data, "--out", str(tmp_path / "results")],
    ]
    code = "import sys\nsys.modules |= dict.fromkeys(['deepspeed', 'wandb'])\nfrom sayo.cli import app\n"
    code += f"for words in {commands}: app(words, standalone_mode=False)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "results/summary.json").is_file()


CELLS = "VisualLayout.from_pretrained('tests/data_prep/samples/qwen3_vl').cells(640, 480)"
LIGHT = {
    "geometry": f"from sayo.geometry import VisualLayout, region_tokens; region_tokens({CELLS}, [[0, 0, 50, 50]])",
    "toy world": "import sayo.toyworld.cli",
}


@pytest.mark.parametrize("name", LIGHT)
def test_what_is_light_imports_no_torch(name):
    heavy = {"torch", "transformers"} | ({"PIL", "pycocotools"} if name == "geometry" else set())
    code = f"import sys; {LIGHT[name]}; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr
