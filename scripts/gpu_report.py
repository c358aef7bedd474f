"""Everything that waits for a GPU, in one call of at most nine minutes that can be cut off and started again.

    python -m scripts.gpu_report --check
    python -m scripts.gpu_report --parts capture_8b step    # some parts
    python -m scripts.gpu_report --quick                    # under a minute; without CUDA the same code on the CPU

Parts: `kernels` compares what is read beside every attention kernel with eager weights in float32; `capture_4b` and
`capture_8b` are `benchmarks.capture` at the shapes of Qwen3-VL in bfloat16; `step` is `benchmarks.grpo_step`;
`preflight` compares the allocator's peak with `sayo preflight`'s estimate (`benchmarks.memory`); `colocate` trains two
steps with transformers' generation and two with vLLM's. All models are random; neither the internet nor weights are
needed. Every part runs in a process of its own and is written as soon as it is finished; a second call skips it. What
is not installed is said to be so. The table printed last is the one for docs/evidence.md.
"""

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import capture, memory
from benchmarks.harness import ROOT, call_of, options_of, own_process, write
from benchmarks.models import SHAPES, make_model, write_checkpoint
from sayo.attention import AttentionCapture

KERNELS = {  # attention kernel -> the module without which it cannot run
    "eager": "torch",
    "sdpa": "torch",
    "flex_attention": "torch",
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "kernels-community/flash-attn2": "kernels",
    "kernels-community/vllm-flash-attn3": "kernels",
}
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of masses, which lie between 0 and 1
PREFLIGHT_CASES = ["qwen3_vl 80M GPU", "qwen3_vl 390M bf16 checkpointing GPU", "qwen2_5_vl 390M LoRA bf16-weights GPU"]
AGREEMENT = 0.02  # of sampled and scored log-probabilities, in nats per token
NOT_INSTALLED = "not installed"
WHOLE = "the whole part"


def kernels(quick: bool, device: str) -> Iterator[dict]:
    """Largest difference of captured masses from those of eager float32 weights, over layers, rows and groups."""
    shape, length = ("toy", 128) if quick else ("100M", 1024)

    def model_of(kernel: str, dtype: torch.dtype = torch.float32) -> Any:  # the same weights, rounded
        model = make_model("qwen3_vl", SHAPES[shape]._replace(depth=1), dtype=torch.float32, device=device).to(dtype)
        model.set_attn_implementation({"text_config": kernel})
        return model.eval()

    model = model_of("eager")
    ids, groups = capture.make_batch(model, length)
    batch = {"input_ids": ids.repeat(2, 1), "attention_mask": torch.ones_like(ids).repeat(2, 1)}
    batch["attention_mask"][1, : length // 8] = 0  # left padding
    groups = {name: group.repeat(2, 1) * batch["attention_mask"] for name, group in groups.items()}
    with torch.no_grad():
        weights = torch.stack([weight.mean(1) for weight in model(**batch, output_attentions=True).attentions], dim=1)
    expected = {name: torch.einsum("blqk,bk->blq", weights, group) for name, group in groups.items()}
    for kernel, module in KERNELS.items():
        if find_spec(module) is None:
            yield {"case": kernel, "status": NOT_INSTALLED}
            continue
        if kernel == "flex_attention" and not model.get_decoder()._supports_flex_attn:
            yield {"case": kernel, "status": "not supported by Qwen3-VL in this transformers"}
            continue
        for dtype in list(TOLERANCES)["flash" in kernel :]:  # flash kernels have no float32
            row = {"case": f"{kernel}, {str(dtype).removeprefix('torch.')}", "target": TOLERANCES[dtype]}
            try:
                model = model_of(kernel, dtype)
                with torch.no_grad(), AttentionCapture(model, layers="all").reading(slice(None), groups) as reading:
                    model(**batch)
            except Exception as error:  # a kernel that is there and does not run is a finding; the others go on
                yield {**row, "status": _failure(error)}
                continue
            real = batch["attention_mask"][:, None].bool()
            gaps = [(reading.masses[name] - expected[name]).abs().where(real, 0).max().item() for name in groups]
            yield {**row, "value": max(gaps), "unit": "largest difference"}


def captured(quick: bool, device: str, shape: str) -> Iterator[dict]:
    """`benchmarks.capture`: time of the passes, and peak memory beside eager weights."""
    parts = ["scoring", "update"] if quick else ["scoring", "update", "memory"]
    options = argparse.Namespace(parts=parts, shape="toy" if quick else shape, device=device, quick=quick)
    options.lengths = [256] if quick else [2048, 8192]
    for row in capture.measure(options):
        case = ", ".join(str(row[key]) for key in ("part", "case", "length", "rows") if key in row)
        if quick:
            row.pop("target", None)  # a tiny pass is mostly Python
        yield {**row, "case": case, "value": row.get("ratio", row.get("added_mib")), "unit": _unit(row)}


def _unit(row: dict) -> str:
    if row["part"] != "memory":
        return "x time without"
    return "x memory of eager weights" if "ratio" in row else "MiB added"


def step(quick: bool, device: str) -> Iterator[dict]:
    """`benchmarks.grpo_step`: a whole step against TRL's."""
    options = argparse.Namespace(parts=["step"], shape="4B", device=device, quick=quick)
    for row in capture.measure(options):
        yield {**row, "value": row["ratio"], "unit": "x step of TRL"}


def preflight(quick: bool, device: str) -> Iterator[dict]:
    """`benchmarks.memory` on this device: the allocator's peak beside the estimate."""
    for case in ["qwen3_vl toy"] if quick else PREFLIGHT_CASES:
        row = own_process("benchmarks.memory:measure_case", case)
        measured = row["allocated"] or row["measured"]["peak"]
        row |= {"value": row["predicted"]["peak"] / measured, "unit": f"x measured, {measured / 2**20:,.0f} MiB"}
        yield row if quick else {**row, "at_least": 1 - memory.TOLERANCE, "target": 1 + memory.TOLERANCE}


def colocate(quick: bool, device: str) -> Iterator[dict]:
    """Two steps with each engine: seconds of the second, and how far sampled and scored log-probabilities differ."""
    from sayo.training.run import build_trainer

    engines = {"transformers": [], "vllm": ["trainer.use_vllm=true", "trainer.vllm_mode=colocate"]}
    for engine, changes in engines.items():
        if find_spec(engine) is None:
            yield {"case": engine, "status": NOT_INSTALLED}
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                write_checkpoint(Path(folder, "policy"), "qwen3_vl", SHAPES["toy" if quick else "12M"], memory.PIXELS)
                trainer = build_trainer(memory.toy_recipe(Path(folder), [*changes, *memory.OPTIONS["GPU"]]))
                trainer.train()
        except Exception as error:
            yield {"case": engine, "status": _failure(error)}
            continue
        last = [line for line in trainer.state.log_history if "step_time" in line][-1]
        yield {"case": f"{engine}, a step", "value": last["step_time"], "unit": "s"}
        gap = last.get("sampling/sampling_logp_difference/mean")
        if gap is not None:
            row = {"case": f"{engine}, sampled against scored", "value": gap, "unit": "nats per token"}
            yield {**row, "target": AGREEMENT}


PARTS = {
    "kernels": kernels,
    "capture_4b": partial(captured, shape="4B"),
    "capture_8b": partial(captured, shape="8B"),
    "step": step,
    "preflight": preflight,
    "colocate": colocate,
}


def rows_of(part: str, quick: bool, device: str) -> list[dict]:
    """All rows of a part; whatever it prints goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        return [{**row, "part": part} for row in PARTS[part](quick, device)]


def run(part: str, quick: bool, device: str, seconds: float) -> list[dict]:
    """The rows of a part, run in a process of its own; if it fails or takes too long, one row that says so."""
    command = call_of("scripts.gpu_report:rows_of", part, quick, device)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return [{"part": part, "case": WHOLE, "status": f"failed: cut off after {seconds:.0f} s"}]
    except subprocess.CalledProcessError as error:
        return [{"part": part, "case": WHOLE, "status": f"failed: exit status {error.returncode}"}]
    return json.loads(done.stdout.splitlines()[-1])


def _failure(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:120]}"


def is_missed(row: dict) -> bool:
    """Whether a row failed or lies outside of its target."""
    if "value" not in row:
        return row["status"].startswith("failed")
    return not row.get("at_least", -math.inf) <= row["value"] <= row.get("target", math.inf)


def markdown(rows: list[dict]) -> str:
    """The table for docs/evidence.md."""
    lines = ["| part | case | result | target |", "|---|---|---|---|"]
    for row in rows:
        result = f"{row['value']:.4g} {row['unit']}" if "value" in row else row["status"]
        bounds = " to ".join(f"{row[key]:g}" for key in ("at_least", "target") if key in row)
        lines.append(f"| {row['part']} | {row['case']} | {result}{' (missed)' * is_missed(row)} | {bounds} |")
    return "\n".join(lines)


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9, help="a part that is not done by then is cut off")
    options = parser.parse_args()
    start, device = time.monotonic(), "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.quick:
        sys.exit("There is no CUDA device here. `--quick` runs the same code on the CPU, at tiny shapes.")
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    folder = Path(tempfile.gettempdir()) if options.quick else ROOT / "benchmarks/results"
    out = options.out or folder / f"gpu_{name.replace(' ', '_').lower()}.json"
    more = {"quick": options.quick, "cuda": torch.version.cuda}
    installed = packages_distributions()
    optional = [package for name in ("flash_attn", "kernels", "vllm") for package in installed.get(name, ())]
    more["optional"] = {package: version(package) for package in optional}
    stored = json.loads(out.read_text()) if out.exists() else {}
    rows = stored["rows"] if stored.get("quick") == options.quick else []
    rows = [row for row in rows if row["case"] != WHOLE]  # a part that was cut off is run again
    wanted = [part for part in options.parts if not (options.quick and part == "capture_8b")]  # as tiny as capture_4b
    for part in wanted:
        left = 60 * options.minutes - (time.monotonic() - start)
        if left > 0 and part not in {row["part"] for row in rows}:
            rows += run(part, options.quick, device, left)
            write(out, rows, **more)
    print(markdown(rows))
    unfinished = [part for part in wanted if part not in {row["part"] for row in rows}]
    missed = [f"{row['part']} {row['case']}" for row in rows if is_missed(row)]
    if unfinished:
        print(f"no time left for {', '.join(unfinished)}: start the same command again")
    print(f"missed: {', '.join(missed)}" if missed else "all targets met")
    sys.exit(1 if options.check and (missed or unfinished) else 0)


if __name__ == "__main__":
    main()
