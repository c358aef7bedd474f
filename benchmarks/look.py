"""What `sayo look` costs: reading all layers of a 300-token response, against generating it.

python -m benchmarks.look --quick                                      # the toy policy only
python -m benchmarks.look --out benchmarks/results/look_cpu.json --check
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import collect, finish, options_of
from benchmarks.models import SHAPES, make_model
from sayo.toyworld.policy import make_processor
from sayo.viz import look as look_module
from sayo.viz.look import look_at
from sayo.viz.look_page import write_look

LIMIT, TOKENS = 0.10, 300
QUESTION = "What color is the disc in the red frame?"
CASES = [("toy", (128, 128)), ("100M", (128, 128)), ("100M", (320, 240)), ("100M", (640, 480))]


def stopwatch(function: Callable, times: dict[str, list[float]], name: str) -> Callable:
    """The function, adding the seconds of each call to `times[name]`."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.setdefault(name, []).append(time.perf_counter() - start)
        return result

    return timed


def measure(shape: str, size: tuple[int, int], repeats: int, device: str) -> dict[str, Any]:
    """Median seconds of generating, reading and writing the page, on `look_at` as it is."""
    model = make_model("qwen3_vl", SHAPES[shape]._replace(words=None), dtype=torch.float32, device=device).eval()
    model.generation_config.eos_token_id = None  # every response has all of its tokens
    processor = make_processor("qwen3_vl")
    processor.image_processor.size = {"shortest_edge": 64 * 64, "longest_edge": 1024 * 1024}
    picture = [Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))]
    times: dict[str, list[float]] = {}
    clocked = {"generate": stopwatch(look_module.generate, times, "generate")}
    clocked["read_traces"] = stopwatch(look_module.read_traces, times, "read")
    regions = [{"box": [16, 16, 64, 64]}]
    with mock.patch.multiple(look_module, **clocked):
        look_at(model, processor, picture, QUESTION, regions=regions, max_new_tokens=4)  # warm-up
        times.clear()
        for _ in range(repeats):
            look = look_at(model, processor, picture, QUESTION, regions=regions, max_new_tokens=TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        page_bytes = stopwatch(write_look, times, "page")(look, Path(folder, "look.html")).stat().st_size
    seconds = {f"{key}_seconds": round(statistics.median(values), 4) for key, values in times.items()}
    ratio = round(seconds["read_seconds"] / seconds["generate_seconds"], 4)
    sizes = {"model": shape, "parameters": model.num_parameters(), "layers": look.trace.layers}
    sizes |= {"visual_tokens": sum(map(len, look.cells)), "response_tokens": len(look.tokens)}
    return {**sizes, **seconds, "read_of_generate": ratio, "page_mb": round(page_bytes / 1e6, 3)}


def main() -> None:
    options = options_of(__doc__).parse_args()
    device, cases = "cuda" if torch.cuda.is_available() else "cpu", CASES[:1] if options.quick else CASES
    rows = collect(options, (measure(shape, size, 5 if shape == "toy" else 1, device) for shape, size in cases))
    missed = [f"{row['model']}: reading" for row in rows if row["read_of_generate"] > LIMIT]
    finish(options, f"sayo look, {TOKENS} tokens; target: reading below {LIMIT:.0%} of generating", rows, missed)


if __name__ == "__main__":
    main()
