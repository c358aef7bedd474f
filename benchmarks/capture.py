"""What reading attention costs, as ratios within one run against the same passes and TRL's GRPO step without it.

    python -m benchmarks.capture --quick
    python -m benchmarks.capture --out benchmarks/results/capture_cpu.json --check
    python -m benchmarks.capture --shape 4B          # a GPU: Qwen3-VL of that shape, random weights, bfloat16

Parts: `scoring` is TRL's scoring pass (log-probs of the completion), `update` that pass with the loss's forward and
backward, `step` a whole GRPO step by real trainers, `memory` the peak that is added, `peers` the same by eager
`output_attentions` and during generate, `look` what `sayo look` reads of a response, against generating it.

The prompts of passes are token ids without a picture: a vision tower would only add to what the reading is compared
with. Times on a CPU are process times. There, the ratio of a pass is taken inside it, (whole pass) / (pass - reading),
so that other load on the machine cancels out; `paired` is the ratio of separate passes in turn, with its noise.
"""

import argparse
import gc
import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.checkpoint import checkpoint

from benchmarks.harness import collect, finish, options_of, own_process, stopwatch
from benchmarks.models import SHAPES, make_model
from sayo.attention import AttentionCapture, CapturedMasses

TARGETS = {("scoring", "last"): 1.03, ("scoring", "all"): 1.25, ("update", "last"): 1.02}
TARGETS |= {("scoring", "all", 0.3): 1.15}
TARGETS |= {("step", "scored"): 1.02, ("step", "aligned"): 1.03}
REPEATS = 3
MEMORY_TARGET = 0.01  # of what eager weights need at the same length
EAGER_LENGTH = 4096  # where eager's memory is measured
UPDATE_LENGTH = 2048  # longest that fits into memory with a graph
# What glibc keeps of freed memory is noise of 100 MiB in resident memory; so every array is mapped and unmapped.
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def build(shape: str, device: str, kernel: str = "sdpa") -> Any:
    """Qwen3-VL of a shape, with next to no vision tower."""
    tower = {"depth": 1, "hidden_size": 64, "intermediate_size": 64}
    return make_model("qwen3_vl", SHAPES[shape], device=device, kernel=kernel, vision=tower).eval()


def make_batch(model: Any, length: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Ids of one sequence and its key groups: the first 60 % stands for the image, a tenth of it for the region."""
    words = model.config.get_text_config().vocab_size
    ids = torch.randint(200, words, (1, length), generator=torch.Generator().manual_seed(0)).to(model.device)
    image, region = torch.zeros(2, *ids.shape, device=model.device)
    image[:, 4 : int(0.6 * length)] = 1
    region[:, 4 : 4 + length // 16] = 0.5
    return ids, {"image": image, "region": region}


def log_probs(model: Any, ids: torch.Tensor, rows: int) -> torch.Tensor:
    """Log-probs of the last `rows` tokens, as TRL makes them: the head in chunks, run again in the backward pass."""

    def head(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model.lm_head(states).float()
        return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)

    states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, -rows - 1 : -1]
    chunks = zip(states.split(512, dim=1), ids[:, -rows:].split(512, dim=1), strict=True)
    return torch.cat([checkpoint(head, *chunk, use_reentrant=False) for chunk in chunks], dim=1)


def ratio_of_passes(run: Callable, capturing: Callable, options: argparse.Namespace) -> dict:
    """`run(context)` in turn without and with an open capture; the time inside readings counts on a CPU."""
    times: dict[str, list[float]] = {}
    plain, read = (stopwatch(run, times, name, options.device) for name in ("plain", "read"))
    reading, inside = stopwatch(CapturedMasses.read, times, "reading", options.device), []
    for _ in range(1 if options.quick else REPEATS):
        plain(nullcontext())
        times["reading"] = []
        with mock.patch.object(CapturedMasses, "read", reading) if options.device == "cpu" else nullcontext():
            read(capturing())
        inside.append(times["read"][-1] / (times["read"][-1] - sum(times["reading"])))
    paired = statistics.median(with_ / without for with_, without in zip(times["read"], times["plain"], strict=True))
    ratio = statistics.median(inside) if options.device == "cpu" else paired
    return {"ratio": ratio, "paired": paired, "seconds": min(times["plain"])}


def passes(options: argparse.Namespace, part: str) -> Iterator[dict]:
    """The scoring pass, or (`update`, at lengths whose graph fits into memory) scoring pass + loss."""
    model = build(options.shape, options.device)
    longest = UPDATE_LENGTH if part == "update" else max(options.lengths)
    for length in [length for length in options.lengths if length <= longest] or options.lengths[:1]:
        ids, groups = make_batch(model, length)
        for share in (0.3, 1.0):
            rows = int(share * (length - 1))

            def run(context: Any, ids: torch.Tensor = ids, rows: int = rows) -> None:
                with torch.no_grad(), context:
                    log_probs(model, ids, rows)
                if part == "update":
                    log_probs(model, ids, rows).mean().backward()
                    model.zero_grad(set_to_none=True)

            for layers in ("last", "all") if part == "scoring" else ("last",):
                capture = AttentionCapture(model, layers=layers)
                # The trainer reads the attention on single visual tokens too, in the pass that it scores.
                index = groups["image"][0].nonzero().T if part == "scoring" else None
                capturing = partial(capture.reading, slice(-rows - 1, None), groups, index)
                case = {"part": part, "case": layers, "length": length, "rows": share}
                yield {**case, **ratio_of_passes(run, capturing, options)}


def peers(options: argparse.Namespace, new_tokens: int = 32, repeats: int = 2) -> Iterator[dict]:
    """Eager weights in the scoring pass, and attention read during generate: SAYO's way and ours."""
    model = build(options.shape, options.device)

    def generate(**more: Any) -> None:
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens,
            min_new_tokens=new_tokens, pad_token_id=0, return_dict_in_generate=True, **more,
        )  # fmt: skip

    def captured() -> None:
        with AttentionCapture(model):
            generate()

    @torch.no_grad()
    def score(**more: Any) -> None:
        model(input_ids=ids, use_cache=False, logits_to_keep=1, **more)

    cases = [
        ("eager weights, scoring pass", score, lambda: score(output_attentions=True), "eager"),
        ("eager weights during generate", generate, lambda: generate(output_attentions=True), "eager"),
        ("capture during generate", generate, captured, "sdpa"),
    ]
    for length in (512, 2048):
        ids, _ = make_batch(model, length)
        for name, plain, reading, kernel in cases:
            times: dict[str, list[float]] = {}
            for _ in range(repeats):
                stopwatch(plain, times, "plain", options.device)()
                model.set_attn_implementation({"text_config": kernel})
                stopwatch(reading, times, "read", options.device)()
                model.set_attn_implementation({"text_config": "sdpa"})
            yield {"part": "peers", "case": name, "length": length, "ratio": min(times["read"]) / min(times["plain"])}


def memory(options: argparse.Namespace) -> Iterator[dict]:
    """Peak memory added; on a CPU each case in its own process."""

    def peak(case: str, length: int) -> int:
        values = (case, options.shape, options.device, length)
        if options.device == "cuda":  # its allocator counts exactly
            gc.collect()
            return peak_memory(*values)
        return own_process("benchmarks.capture:peak_memory", *values, **FREED_AT_ONCE)

    for length in sorted({1024, EAGER_LENGTH, max(options.lengths)}):
        plain, has_eager = peak("plain", length), length == EAGER_LENGTH
        added = {case: peak(case, length) - plain for case in ("last", "all", "eager")[: 2 + has_eager]}
        for case, value in added.items():
            row = {"part": "memory", "case": case, "length": length, "added_mib": value / 2**20}
            is_read = has_eager and case != "eager"
            yield {**row, "ratio": value / added["eager"], "target": MEMORY_TARGET} if is_read else row


def peak_memory(case: str, shape: str, device: str, length: int) -> int:
    """Bytes that one pass needs at its peak beyond what was there before: resident (Linux) or GPU memory.

    Args:
        case: "plain", "eager", or the layers that are captured.
    """
    model = build(shape, device, "eager" if case == "eager" else "sdpa")
    ids, groups = make_batch(model, length)
    rows = slice(-int(0.3 * length) - 1, None)
    captures = case in ("last", "all")
    context = AttentionCapture(model, layers=case).reading(rows, groups) if captures else nullcontext()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: loading the model has one of its own
        before = _resident("VmRSS")
    with torch.no_grad(), context:
        model.model(input_ids=ids, use_cache=False, output_attentions=case == "eager")
    return (torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")) - before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def step(options: argparse.Namespace) -> Iterator[dict]:
    from benchmarks.grpo_step import compare

    size = {"side": 64, "steps": 2, "rounds": 1} if options.quick else {"side": 256, "steps": 4, "rounds": 2}
    yield from compare(SHAPES["toy" if options.quick else options.shape], options.device, **size)


def look(options: argparse.Namespace) -> Iterator[dict]:
    from benchmarks.look import SIZES, measure

    yield measure("toy", SIZES[0], 5, options.device)
    for size in () if options.quick else SIZES:
        yield measure(options.shape, size, 1, options.device)


PARTS = {
    "memory": memory,
    "scoring": lambda options: passes(options, "scoring"),
    "update": lambda options: passes(options, "update"),
    "step": step,
    "peers": peers,
    "look": look,
}


def measure(options: argparse.Namespace) -> Iterator[dict]:
    """The rows of all parts, with their targets."""
    for part in options.parts:
        for row in PARTS[part](options):
            target = TARGETS.get((part, row["case"], row.get("rows")), TARGETS.get((part, row["case"])))
            if target and not (options.quick and part == "step"):  # a toy's step is mostly Python
                row["target"] = target
            yield row


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="100M")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 4096, 8192])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if options.quick:
        options.lengths, options.parts = [256], ["scoring", "step", "look"]
    about = {"shape": options.shape, "repeats": REPEATS}
    rows = collect(options, measure(options), **about)
    missed = [f"{row['part']} {row['case']}" for row in rows if row.get("ratio", 0) > row.get("target", float("inf"))]
    finish(options, "Cost of reading attention", rows, missed, **about)


if __name__ == "__main__":
    main()
