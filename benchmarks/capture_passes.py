"""Passes with and without a reading of attention: what each costs, as JSON. Run by scripts/bench_capture.py.

The prompts are token ids without a picture: a vision tower would only add to what the reading is compared with. Times
on a CPU are process times. There, the ratio of a pass is taken inside it, (whole pass) / (pass - reading), so that
other load on the machine cancels out; `paired` is the ratio of separate passes in turn, with its noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.checkpoint import checkpoint

from sayo.attention import AttentionCapture, CapturedMasses

SHAPES = {  # hidden, intermediate, layers, heads, key/value heads, head_dim
    "100m": (768, 3072, 12, 12, 4, 64),
    "4b": (2560, 9728, 36, 32, 8, 128),
    "8b": (4096, 12288, 36, 32, 8, 128),
}
VOCABULARY = 151_936
IMAGE = 5


def make_model(shape: str, kernel: str, device: str) -> torch.nn.Module:
    """Qwen3-VL with random weights; bfloat16 on a GPU."""
    hidden, intermediate, layers, heads, kv_heads, head_dim = SHAPES[shape]
    third = head_dim // 2 // 3
    config = transformers.Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": hidden, "intermediate_size": intermediate, "head_dim": head_dim,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "max_position_embeddings": 2**17, "pad_token_id": 0, "eos_token_id": None, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6,
                                "mrope_section": [head_dim // 2 - 2 * third, third, third]},
        },
        vision_config={"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2,
                       "out_hidden_size": hidden, "deepstack_visual_indexes": [0]},
        image_token_id=IMAGE, tie_word_embeddings=True,
    )  # fmt: skip
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.Qwen3VLForConditionalGeneration._from_config(
            config, attn_implementation=kernel, dtype=dtype
        )
    return model.eval()


def make_batch(length: int, device: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Ids of one sequence and its key groups: the first 60 % stands for the image, a tenth of it for the target."""
    ids = torch.randint(10, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(0)).to(device)
    image, region = torch.zeros(ids.shape, device=device), torch.zeros(ids.shape, device=device)
    image[:, 4 : int(0.6 * length)] = 1
    region[:, 4 : 4 + length // 16] = 0.5
    return ids, {"image": image, "region": region}


def log_probs(model, ids: torch.Tensor, rows: int) -> torch.Tensor:
    """Log-probs of the last `rows` tokens, as TRL makes them: the head in chunks, run again in the backward pass."""

    def head(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model.lm_head(states).float()
        return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)

    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, -rows - 1 : -1]
    chunks = zip(hidden.split(512, dim=1), ids[:, -rows:].split(512, dim=1), strict=True)
    return torch.cat([checkpoint(head, *chunk, use_reentrant=False) for chunk in chunks], dim=1)


def seconds(function: Callable[[], Any], device: str) -> float:
    """Process time on a CPU, wall time on a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


class ReadingClock:
    """Process time spent in readings since `reset`; a GPU would have to stop for each, so there it stays 0."""

    def __init__(self, device: str):
        self.spent, read = 0.0, CapturedMasses.read

        def timed(reading: CapturedMasses, *args: Any, **kwargs: Any) -> None:
            start = time.process_time()
            read(reading, *args, **kwargs)
            self.spent += time.process_time() - start

        if device == "cpu":
            CapturedMasses.read = timed

    def reset(self) -> float:
        spent, self.spent = self.spent, 0.0
        return spent


def ratio_of_passes(run: Callable, capturing: Callable, device: str, repeats: int, clock: ReadingClock) -> dict:
    """`run(context)` in turn without and with an open capture."""
    plain, read, inside = [], [], []
    for _ in range(repeats):
        plain.append(seconds(lambda: run(nullcontext()), device))
        clock.reset()
        read.append(seconds(lambda: run(capturing()), device))
        inside.append(read[-1] / (read[-1] - clock.reset()))
    paired = statistics.median(with_ / without for with_, without in zip(read, plain, strict=True))
    ratio = statistics.median(inside) if device == "cpu" else paired
    return {"ratio": ratio, "paired": paired, "seconds": min(plain)}


def scoring_and_update(model, lengths: list[int], device: str, repeats: int, parts: list[str]) -> list[dict]:
    """(a) and the compute of (b) that carries the reading: scoring pass, and scoring pass + loss."""

    def score(context) -> None:
        with torch.no_grad(), context:
            log_probs(model, ids, rows)

    def update(context) -> None:
        score(context)
        log_probs(model, ids, rows).mean().backward()
        model.zero_grad(set_to_none=True)

    def capturing():
        return capture.reading(slice(-rows - 1, None), groups)

    results, clock = [], ReadingClock(device)
    for length in lengths:
        ids, groups = make_batch(length, device)
        for share in (0.3, 1.0):
            rows = int(share * (length - 1))
            for layers in ("last", "all"):
                capture = AttentionCapture(model, layers=layers)
                for part in parts if layers == "last" else [part for part in parts if part == "scoring"]:
                    run = score if part == "scoring" else update
                    case = {"part": part, "length": length, "rows": share, "layers": layers}
                    results.append({**case, **ratio_of_passes(run, capturing, device, repeats, clock)})
                    show(results[-1])
    return results


def peers(model, device: str, lengths: list[int], new_tokens: int, repeats: int) -> list[dict]:
    """(d) eager weights in the scoring pass, and attention read during generate: SAYO's way and ours."""

    def generate(**options) -> None:
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens,
            min_new_tokens=new_tokens, pad_token_id=0, return_dict_in_generate=True, **options,
        )  # fmt: skip

    def captured() -> None:
        with AttentionCapture(model):
            generate()

    @torch.no_grad()
    def score(**options) -> None:
        model(input_ids=ids, use_cache=False, logits_to_keep=1, **options)

    stock = model.config.get_text_config()._attn_implementation
    cases = [
        ("eager weights, scoring pass", score, lambda: score(output_attentions=True), "eager"),
        ("eager weights during generate", generate, lambda: generate(output_attentions=True), "eager"),
        ("capture during generate", generate, captured, stock),
    ]
    results = []
    for length in lengths:
        ids, _ = make_batch(length, device)
        for name, plain, reading, kernel in cases:
            without, read = [], []
            for _ in range(repeats):
                without.append(seconds(plain, device))
                model.set_attn_implementation({"text_config": kernel})
                read.append(seconds(reading, device))
                model.set_attn_implementation({"text_config": stock})
            results.append({"part": "peers", "case": name, "length": length, "ratio": min(read) / min(without)})
            show(results[-1])
    return results


def peak_memory(model, case: str, length: int, device: str) -> int:
    """Bytes that one pass needs at its peak beyond what was there before: resident (Linux) or GPU memory."""
    ids, groups = make_batch(length, device)
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


def show(row: dict) -> None:
    """One line as soon as it is known: a whole run takes a while."""
    print(json.dumps(row), file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=["scoring", "update", "peers", "memory"])
    parser.add_argument("--case", choices=["plain", "last", "all", "eager"], help="of the part memory")
    parser.add_argument("--shape", choices=SHAPES, default="100m")
    parser.add_argument("--kernel", default="sdpa")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512])
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if "memory" in options.parts:
        kernel = "eager" if options.case == "eager" else options.kernel
        model = make_model(options.shape, kernel, options.device)
        print(json.dumps(peak_memory(model, options.case, options.lengths[0], options.device)))
        return
    model = make_model(options.shape, options.kernel, options.device)
    results: list[dict] = []
    passes = [part for part in options.parts if part != "peers"]
    if passes:
        results += scoring_and_update(model, options.lengths, options.device, options.repeats, passes)
    if "peers" in options.parts:
        results += peers(model, options.device, options.lengths, options.new_tokens, options.repeats)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
