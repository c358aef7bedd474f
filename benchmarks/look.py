"""What `sayo look` costs: reading all layers of a 300-token response, against generating it. For `capture`."""

import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import stopwatch
from benchmarks.models import SHAPES, SMALL_WORDS, make_model
from sayo.toyworld.policy import make_processor
from sayo.viz import look as look_module
from sayo.viz.look import look_at
from sayo.viz.look_page import write_look

LIMIT, TOKENS = 0.10, 300
QUESTION = "What color is the disc in the red frame?"
SIZES = ((128, 128), (320, 240), (640, 480))


def measure(shape: str, size: tuple[int, int], repeats: int, device: str) -> dict[str, Any]:
    """Median seconds of generating, reading and writing the page, on `look_at` as it is."""
    model = make_model("qwen3_vl", SHAPES[shape], dtype=torch.float32, device=device, text=SMALL_WORDS).eval()
    model.generation_config.eos_token_id = None  # every response has all of its tokens
    processor = make_processor("qwen3_vl")
    processor.image_processor.size = {"shortest_edge": 64 * 64, "longest_edge": 1024 * 1024}
    picture = [Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))]
    times: dict[str, list[float]] = {}
    clocked = {"generate": stopwatch(look_module.generate, times, "generate", device)}
    clocked["read_traces"] = stopwatch(look_module.read_traces, times, "read", device)
    regions = [{"box": [16, 16, 64, 64]}]
    with mock.patch.multiple(look_module, **clocked):
        look_at(model, processor, picture, QUESTION, regions=regions, max_new_tokens=4)  # warm-up
        times.clear()
        for _ in range(repeats):
            look = look_at(model, processor, picture, QUESTION, regions=regions, max_new_tokens=TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        page_bytes = stopwatch(write_look, times, "page", device)(look, Path(folder, "look.html")).stat().st_size
    seconds = {f"{key}_seconds": round(statistics.median(values), 4) for key, values in times.items()}
    row = {"part": "look", "case": shape, "ratio": seconds["read_seconds"] / seconds["generate_seconds"]}
    row |= {"target": LIMIT, "parameters": model.num_parameters(), "layers": len(look.trace.layers)}
    row |= {"visual_tokens": sum(map(len, look.cells)), "response_tokens": len(look.tokens)}
    return {**row, **seconds, "page_mb": round(page_bytes / 1e6, 3)}
