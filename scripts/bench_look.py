"""What `sayo look` costs: reading all layers of a 300-token response, against generating it.

python scripts/bench_look.py            # full run, writes benchmarks/look_cpu.json (or look_cuda.json)
python scripts/bench_look.py --quick    # the toy policy only, nothing written
python scripts/bench_look.py --check    # exit 1 if reading takes more than a tenth of generating
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from rich.console import Console
from rich.table import Table

from sayo.toyworld.policy import make_policy, make_processor
from sayo.viz import look as look_module
from sayo.viz.look import look_at
from sayo.viz.look_page import write_look

LIMIT = 0.10
TOKENS = 300
QUESTION = "What color is the disc in the red frame?"
CASES = [("toy", (128, 128)), ("100M", (128, 128)), ("100M", (320, 240)), ("100M", (640, 480))]


def make_model(name: str, device: str) -> torch.nn.Module:
    """The toy policy, or the same family with random weights and more than 100 million parameters."""
    model = make_policy("qwen3_vl")
    if name != "toy":
        config = model.config
        text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 14, "head_dim": 64}
        text["layer_types"] = ["full_attention"] * 14
        text |= {"num_attention_heads": 12, "num_key_value_heads": 4, "max_position_embeddings": 4096}
        config.text_config.update(text)
        config.text_config.rope_parameters["mrope_section"] = [12, 10, 10]
        config.vision_config.out_hidden_size = 768
        model = type(model)(config)
    model.generation_config.eos_token_id = None  # every response has all of its tokens
    return model.to(device).eval()


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


def measure(name: str, size: tuple[int, int], tokens: int, repeats: int, device: str) -> dict[str, Any]:
    """Median seconds of generating, reading and writing the page, on `look_at` as it is."""
    model, processor = make_model(name, device), make_processor("qwen3_vl")
    processor.image_processor.size = {"shortest_edge": 64 * 64, "longest_edge": 1024 * 1024}
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    times: dict[str, list[float]] = {}
    original = look_module.generate, look_module.read_traces
    look_module.generate = stopwatch(original[0], times, "generate")
    look_module.read_traces = stopwatch(original[1], times, "read")
    options = {"regions": [{"box": [16, 16, 64, 64]}], "max_new_tokens": tokens}
    try:
        picture = [Image.fromarray(pixels)]
        look_at(model, processor, picture, QUESTION, **{**options, "max_new_tokens": 4})  # warm-up
        times.clear()
        for _ in range(repeats):
            look = look_at(model, processor, picture, QUESTION, **options)
    finally:
        look_module.generate, look_module.read_traces = original
    with tempfile.TemporaryDirectory() as folder:
        page = stopwatch(write_look, times, "page")(look, Path(folder, "look.html"))
        page_bytes = page.stat().st_size
    seconds = {key: statistics.median(values) for key, values in times.items()}
    return {
        "model": name,
        "parameters": model.num_parameters(),
        "layers": len(look.trace.layers),
        "visual_tokens": look.trace.maps.shape[-1],
        "response_tokens": len(look.tokens),
        **{f"{key}_seconds": round(value, 4) for key, value in seconds.items()},
        "read_of_generate": round(seconds["read"] / seconds["generate"], 4),
        "page_mb": round(page_bytes / 1e6, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the toy policy only")
    parser.add_argument("--repeats", type=int, default=1, help="responses of each large case (toy: 5)")
    parser.add_argument("--out", type=Path, help="JSON file; the full run writes benchmarks/look_<device>.json")
    parser.add_argument("--check", action="store_true", help=f"fail above {LIMIT:.0%}")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    rows = []
    for name, size in CASES[:1] if options.quick else CASES:
        rows.append(measure(name, size, TOKENS, 5 if name == "toy" else options.repeats, device))
        print(f"{name}, {rows[-1]['visual_tokens']} visual tokens: done", file=sys.stderr)
    result = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rows": rows,
    }
    out = options.out or (None if options.quick else Path(f"benchmarks/look_{device}.json"))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
    print_table(result)
    if options.check and any(row["read_of_generate"] > LIMIT for row in rows):
        sys.exit(f"reading took more than {LIMIT:.0%} of generating")


def print_table(result: dict[str, Any]) -> None:
    """One line per case."""
    table = Table(title=f"sayo look on {result['device']}, {result['threads']} thread(s), {TOKENS} tokens")
    for heading in ("model", "parameters", "visual tokens", "generate s", "read s", "read / generate", "page s", "MB"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in result["rows"]:
        table.add_row(
            row["model"],
            f"{row['parameters'] / 1e6:.1f}M",
            str(row["visual_tokens"]),
            f"{row['generate_seconds']:.2f}",
            f"{row['read_seconds']:.3f}",
            f"{row['read_of_generate']:.1%}",
            f"{row['page_seconds']:.2f}",
            f"{row['page_mb']:.2f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
