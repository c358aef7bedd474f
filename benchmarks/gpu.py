"""What only a GPU can show: capture beside every attention kernel, and training with either engine of generation.

    python -m benchmarks.gpu --out benchmarks/results/gpu/kernels.json --parts kernels --check
    python -m benchmarks.gpu --quick      # without CUDA, too

`kernels` compares what is read beside every attention kernel with eager weights in float32; `engines` trains two steps
with transformers' generation and two with vLLM's. All models are random; neither the internet nor weights are needed.
What is not installed is said to be so. `scripts/gpu_report.sh` runs this and all other benchmarks of a GPU.
"""

import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import capture, memory
from benchmarks.harness import collect, finish, options_of
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
AGREEMENT = 0.02  # of sampled and scored log-probabilities, in nats per token
NOT_INSTALLED = "not installed"


def kernels(quick: bool, device: str) -> Iterator[dict]:
    """Largest difference of captured masses from those of eager float32 weights, over layers, rows and groups."""
    shape, length = ("toy", 128) if quick else ("100M", 1024)

    def model_of(kernel: str, dtype: torch.dtype = torch.float32) -> Any:  # the same weights, rounded
        kwargs = {"dtype": torch.float32, "device": device, "vision": {"depth": 1}}
        model = make_model("qwen3_vl", SHAPES[shape], **kwargs).to(dtype)
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


def engines(quick: bool, device: str) -> Iterator[dict]:
    """Two steps with each engine: seconds of the second, and how far sampled and scored log-probabilities differ."""
    from sayo.training.run import build_trainer

    changes = {"transformers": [], "vllm": ["trainer.use_vllm=true", "trainer.vllm_mode=colocate"]}
    changes = {engine: [*words, *memory.OPTIONS["GPU"] * (device == "cuda")] for engine, words in changes.items()}
    for engine, words in changes.items():
        if find_spec(engine) is None:
            yield {"case": engine, "status": NOT_INSTALLED}
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                write_checkpoint(Path(folder, "policy"), "qwen3_vl", SHAPES["toy" if quick else "12M"], memory.PIXELS)
                trainer = build_trainer(memory.toy_recipe(Path(folder), words))
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


PARTS = {"kernels": kernels, "engines": engines}


def _failure(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:120]}"


def is_missed(row: dict) -> bool:
    """Whether a row failed or lies outside of its target."""
    if "value" not in row:
        return row["status"].startswith("failed")
    return not row["value"] <= row.get("target", float("inf"))


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.quick:
        sys.exit("There is no CUDA device here. `--quick` runs the same code on the CPU, at tiny shapes.")
    measured = ({"part": part, **row} for part in options.parts for row in PARTS[part](options.quick, device))
    rows = collect(options, measured, cuda=torch.version.cuda)
    missed = [f"{row['part']} {row['case']}" for row in rows if is_missed(row)]
    finish(options, "On a GPU", rows, missed, cuda=torch.version.cuda)


if __name__ == "__main__":
    main()
