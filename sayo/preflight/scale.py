"""Scale on paper: `python -m sayo.preflight.scale > docs/scale.md`.

The shipped Qwen3-VL recipe, priced by the code of `sayo preflight` for 8, 64 and 512 GPUs. The two shapes below are
written out because the page must not need the hub; everything else is computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from sayo.preflight.estimate import GIB, usable
from sayo.preflight.memory import Memory, memory_of
from sayo.preflight.policy import Policy, meta_policy
from sayo.preflight.setting import SHARDINGS, Setting, setting_of
from sayo.preflight.timing import Hardware, StepTime, step_time
from sayo.preflight.tokens import NO_DATA, Tokens
from sayo.recipes import load_recipe

SHAPES = {
    "8B": {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 12288},
    "32B": {"hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 64, "intermediate_size": 25600},
}
TEXT = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
VISION = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "deepstack_visual_indexes": [8, 16, 24],
}
ROTARY = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
GPUS = (8, 64, 512)
GPU_GIB = 80.0
PROMPT = Tokens(text=256, visual=768)
COMPLETION = 256

HEADER = """# Scale on paper

    python -m sayo.preflight.scale > docs/scale.md

This page is computed by the code behind `sayo preflight`, with the recipe `sayo_qwen3_vl_8b` on the shapes of
Qwen3-VL 8B and 32B. It is an estimate, not a measurement: nobody has run these sizes with sayo yet. What is measured
is the memory of models of 9M to 390M parameters against the same formulas (`scripts/bench_memory.py`, results in
`benchmarks/preflight_cpu.json`).
"""


def qwen3_vl(size: str) -> Any:
    """The transformers config of Qwen3-VL in a size of `SHAPES`."""
    from transformers import Qwen3VLConfig

    text = {**TEXT, **SHAPES[size], "rope_parameters": ROTARY}
    vision = {**VISION, "out_hidden_size": text["hidden_size"]}
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: the fastest sharding that fits, or the smallest where none does."""

    size: str
    tuning: str
    setting: Setting
    memory: Memory
    time: StepTime
    fits: bool


def rows(hardware: Hardware, completions_per_step: int | None) -> Iterator[Row]:
    """Price every model, tuning and number of GPUs.

    Args:
        completions_per_step: fixed for the whole run (strong scaling), or None for the recipe's 64 per GPU.
    """
    for size in SHAPES:
        for tuning in ("full", "LoRA"):
            policy, base = _run(size, tuning)
            for gpus in GPUS:
                setting = _spread(base, gpus, completions_per_step)
                yield _best(size, tuning, policy, setting, hardware)


def _run(size: str, tuning: str) -> tuple[Policy, Setting]:
    changes = [f"data.path='{NO_DATA}'", f"trainer.max_completion_length={COMPLETION}"]
    recipe = load_recipe("sayo_qwen3_vl_8b", changes + (["model.lora=null"] if tuning == "full" else []))
    layers = SHAPES[size]["num_hidden_layers"]
    launch = {"gpus": 8, "sharding": "zero1", "device": "cuda"}
    return meta_policy(recipe.model, qwen3_vl(size)), setting_of(recipe, PROMPT, PROMPT, layers, **launch)


def _spread(base: Setting, gpus: int, completions: int | None) -> Setting:
    """The recipe on `gpus`; with a fixed number of completions each GPU gets its share of them."""
    if completions is None:
        return base.change(gpus=gpus)
    share = completions // gpus
    micro = min(base.micro_batch, share)
    return base.change(gpus=gpus, micro_batch=micro, accumulation=share // micro, generation_batch=share)


def _best(size: str, tuning: str, policy: Policy, setting: Setting, hardware: Hardware) -> Row:
    available = usable(round(GPU_GIB * GIB), hardware)
    found = []
    for kind in SHARDINGS:
        own = setting.change(sharding=kind)
        memory = memory_of(policy, own, round(GPU_GIB * GIB))
        found.append(Row(size, tuning, own, memory, step_time(policy, own, hardware), memory.peak <= available))
    fitting = [row for row in found if row.fits]
    if fitting:
        return min(fitting, key=lambda row: (round(row.time.seconds, 2), row.memory.peak))
    return min(found, key=lambda row: row.memory.peak)


def page(hardware: Hardware | None = None) -> str:
    """The page as Markdown."""
    hardware = hardware or Hardware()
    base = 64 * GPUS[0]
    parts = [
        HEADER,
        "## Assumptions\n",
        _assumptions(hardware),
        "## Every GPU keeps its 64 completions per step\n",
        "The batch grows with the machine: 512 completions on 8 GPUs, 32,768 on 512.\n",
        _table(rows(hardware, None)),
        f"## The whole run keeps {base} completions per step\n",
        "The batch stays what it is on 8 GPUs, so 512 GPUs have one completion each.\n",
        _table(rows(hardware, base)),
        "## Reading\n",
        READING,
    ]
    return "\n".join(parts)


READING = """\
- *peak* is one GPU's memory at its worst moment, in GiB of 80; *static* is the part of it that lives through the
  whole step (weights, optimizer, masters, reference model, buffers, the images of the batch).
- *generate* is prefilling and decoding with transformers; a vLLM engine mostly removes the launch overhead of
  decoding, which is the larger part of it. *score* is the scoring pass in which attention is read, *reference* the
  forward of the KL term (`trainer.beta=0` removes it), *train* forward and backward with checkpointing.
- *sent* is what passes through each GPU's links in one optimizer step, *network* the time this takes; *wait* is the
  part of it that computation does not hide.
- *bottleneck* is the longest part of the step.

Formulas: the docstrings of `sayo.preflight.memory` (memory by phase), `sharding` (weights, gradients, optimizer),
`head` (logits), `trace` (activations of a layer) and `timing` (operations, decoding, communication).
"""


def _assumptions(hardware: Hardware) -> str:
    setting = _run("8B", "full")[1]
    lines = [
        f"- H100 SXM: {hardware.peak_tflops:g} TFLOP/s dense bfloat16, {GPU_GIB:g} GiB at {hardware.memory_gbs:g} "
        f"GB/s; {hardware.context_gib:g} GiB of context and {hardware.fragmentation:.0%} of fragmentation are not "
        "available.",
        f"- Training reaches {hardware.mfu:.0%} of the peak, forward passes {hardware.prefill_mfu:.0%}; decoding "
        f"{hardware.memory_efficiency:.0%} of the bandwidth, plus {hardware.transformers_overhead_ms:g} ms per layer "
        "and token for launching kernels.",
        f"- {hardware.gpus_per_node} GPUs per node; {hardware.nvlink_gbs:g} GB/s per direction within a node, "
        f"{hardware.network_gbs:g} GB/s per GPU between nodes; collectives reach {hardware.network_efficiency:.0%} of "
        f"it and pay {hardware.hop_us:g} us per hop between nodes.",
        f"- Prompts of {PROMPT.text} text and {PROMPT.visual} visual tokens (one image), completions of {COMPLETION}; "
        f"{setting.num_generations} completions per prompt, micro-batches of {setting.micro_batch}, bfloat16, "
        "gradient checkpointing, beta > 0.",
        "- Rollouts by transformers in the trainer's process. Reading images, rewards and stragglers are left out.",
    ]
    return "\n".join(lines) + "\n"


def _table(found: Iterator[Row]) -> str:
    head = (
        "model",
        "tuning",
        "GPUs",
        "fastest that fits",
        "static",
        "peak",
        "step s",
        "generate",
        "score",
        "reference",
        "train",
        "sent GB",
        "network s",
        "wait s",
        "bottleneck",
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in found]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> Iterator[str]:
    parts = row.time.parts
    yield from (row.size, row.tuning, str(row.setting.gpus))
    yield row.setting.sharding if row.fits else f"none ({row.setting.sharding} is smallest)"
    yield f"{sum(row.memory.always.values()) / GIB:.1f}"
    yield f"{row.memory.peak / GIB:.1f}"
    yield f"{row.time.seconds:.1f}"
    yield f"{parts['generation: prefill'] + parts['generation: decode']:.1f}"
    for name in ("scoring", "reference", "forward and backward"):
        yield f"{parts.get(name, 0.0):.1f}"
    yield f"{row.time.sent / 1e9:.1f}"
    yield f"{row.time.communication:.1f}"
    yield f"{parts['waiting for communication']:.1f}"
    yield row.time.bottleneck


if __name__ == "__main__":
    print(page(), end="")
