"""Exported checkpoints behind `vllm serve`: the evaluation's answers, and TRL's server mode."""

import json
import re
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import torch
from engines.runs import COMMAND, DIFFERENCE, LIMITS, SIZES, environment, logged, make_data, sayo, served, write_recipe
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer
from typer.testing import CliRunner

from sayo.cli import app
from sayo.training.checkpoints import is_complete

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy(stand_in):
    """One that says printable ASCII: texts of a server can then be read again, and no vision token is among them."""
    folder = stand_in("qwen3_vl")
    model, tokenizer = AutoModelForImageTextToText.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    words = [tokenizer.decode([index]) for index in range(len(tokenizer))]
    with torch.no_grad():
        model.lm_head.weight[[not (len(word) == 1 and word.isascii() and word.isprintable()) for word in words]] = 0
    model.save_pretrained(folder)
    return folder


def kill_after_a_step(recipe, run) -> int:
    """Leave a run with its first checkpoint, and not its last; returns when that was written."""
    command = [sys.executable, str(COMMAND), "train", "--config-name", str(recipe)]
    with (
        run.with_suffix(".log").open("w") as log,
        subprocess.Popen(command, env=environment(), stderr=log) as training,
    ):
        while not is_complete(run / "checkpoint-1") and training.poll() is None:
            time.sleep(0.1)
        training.kill()
    is_killed = is_complete(run / "checkpoint-1") and not (run / "checkpoint-3").is_dir()
    assert is_killed, run.with_suffix(".log").read_text()
    return (run / "checkpoint-1").stat().st_mtime_ns


@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}], ids=["full", "LoRA"]
)
def test_killed_resumed_exported_and_served(policy, tmp_path, lora):
    """Training with vLLM goes on after a kill (full); its export answers behind a server what it answers here."""
    data, run = make_data(tmp_path, policy, LIMITS), tmp_path / "run"
    recipe = write_recipe(tmp_path, policy, data, model={"size": LIMITS, "lora": lora})
    written = kill_after_a_step(recipe, run) if lora is None else None
    sayo("train", "--config-name", recipe)
    assert written in (None, (run / "checkpoint-1").stat().st_mtime_ns), "it started again"
    assert len(differences := logged(run, DIFFERENCE)) == 3 and max(differences) <= 1e-3
    sayo("export", run, "--out", tmp_path / "export")
    asked = ("--data", data, "--split", "train", "--temperature", 0, "--num-samples", 1, "--max-new-tokens", 8)
    sayo("evaluate", tmp_path / "export", *asked, "--out", tmp_path / "here")
    with served(tmp_path / "export", tmp_path / "server.log") as address:
        sayo("evaluate", tmp_path / "export", *asked, "--server", f"{address}/v1", "--out", tmp_path / "there")
    here, there = (
        {line["id"]: line for line in map(json.loads, (tmp_path / name / "samples.jsonl").read_text().splitlines())}
        for name in ("here", "there")
    )
    assert len(here) == 4
    for question, record in here.items():
        assert there[question]["completions"] == record["completions"]
        assert there[question]["tas"] == pytest.approx(record["tas"], abs=1e-4)


def test_ground_takes_the_boxes_of_a_real_server(policy, tmp_path):
    """The tiny model is held to a form, and draws where it likes; whatever it draws is in pixels of the picture."""

    def run(*words):  # in this process: no other one has to import vllm
        result = CliRunner().invoke(app, list(map(str, words)))
        assert result.exit_code == 0, result.output

    lines = [{"image": f"{index}.png", "question": f"What is it? {index}", "answer": "a"} for index in range(2)]
    for line, size in zip(lines, SIZES, strict=False):
        Image.new("RGB", size, "red").save(tmp_path / line["image"])
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = ("--questions", tmp_path / "questions.jsonl", "--images", tmp_path)
    run("prepare", "jsonl", *files, "--out", tmp_path / "plain")
    form = r'\[\{"bbox_2d": \[[1-4]\d\d, [1-4]\d\d, [5-9]\d\d, [5-9]\d\d\], "label": "mug"\}\]'
    asked = ("--model", policy, "--temperature", 0, "--max-tokens", 99)
    asked += ("--extra", json.dumps({"structured_outputs": {"regex": form}}))
    with served(policy, tmp_path / "server.log") as address:
        run("ground", tmp_path / "plain", "--out", tmp_path / "found", "--server", f"{address}/v1", *asked)
    replies = [json.loads(line) for line in (tmp_path / "found/journal.jsonl").read_text().splitlines()]
    drawn = {reply["id"]: json.loads(reply["text"])[0]["bbox_2d"] for reply in replies}
    rows = pq.read_table(tmp_path / "found/data").to_pylist()
    assert len(rows) == 2 and len(replies) == 6
    for row, (width, height) in zip(rows, SIZES[:2], strict=True):
        (region,) = row["regions"]
        sides = (width, height, width, height)
        box = [value * side / 1000 for value, side in zip(drawn[row["id"]], sides, strict=True)]
        assert region["box"] == pytest.approx(box) and region["label"] == "mug"
        assert json.loads(row["grounding"]) == {"by": str(policy), "scores": [1.0]}


def test_server_mode_sees_the_same_prompts(policy, tmp_path):
    """With the recipe's limits the prompts agree; without them the run stops and says what the server lacks."""
    data = make_data(tmp_path, policy, LIMITS)
    options = ("--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1")
    told = ("--mm-processor-kwargs", json.dumps({"size": LIMITS}))
    for limits, status in ((told, 0), ((), 1)):
        folder = tmp_path / f"status {status}"
        folder.mkdir()
        with served(policy, folder / "server.log", *options, *limits) as address:
            server = {"vllm_mode": "server", "vllm_server_base_url": address, "learning_rate": 0.0}
            recipe = write_recipe(folder, policy, data, model={"size": LIMITS}, **server)
            output = sayo("train", "--config-name", recipe, expect=status)
        if status:
            assert re.search(
                r"vLLM server makes \[.*\] visual tokens .* --mm-processor-kwargs", output.replace("\n", " ")
            )
        else:
            assert max(logged(folder / "run", DIFFERENCE)) <= 1e-3
            log = (folder / "server.log").read_text()
            assert log.count('"POST /reset_encoder_cache HTTP/1.1" 200') == 3
