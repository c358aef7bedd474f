"""A real GRPO run, phase by phase: `RegionGRPOTrainer` on toy data with a larger random policy."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, TrainerCallback

from sayo.preflight.bench import SIZES, state_bytes
from sayo.preflight.estimate import estimate
from sayo.preflight.trace import LiveBytes
from sayo.recipes import Recipe, load_recipe

PIXELS = {"shortest_edge": 192 * 192, "longest_edge": 256 * 256}  # toy pictures are enlarged: 144 visual tokens
PHASES = ("generation", "scoring", "backward", "update")


def measure_grpo(family: str, size: str, options: dict[str, Any]) -> dict[str, Any]:
    """`{"parameters", "measured", "predicted"}`, bytes by item and phase, of two GRPO steps."""
    from sayo.training.run import build_trainer

    with tempfile.TemporaryDirectory(prefix="sayo_bench_") as folder:
        recipe = _recipe(Path(folder), family, size, options)
        priced = estimate(copy.deepcopy(recipe), gpus=1, sharding="ddp", device="cpu", gpu_gib=0)
        measured = _measure(build_trainer(recipe))
    memory = priced.memory
    predicted = {
        "weights": memory.always["weights"] + memory.always["reference model"],
        "optimizer": memory.always["optimizer"],
        "gradients": memory.phases["update"]["gradients"],
        **{phase: memory.phase_peak(phase) for phase in PHASES},
        "peak": memory.peak,
    }
    return {"parameters": priced.policy.total().parameters, "measured": measured, "predicted": predicted}


def _recipe(folder: Path, family: str, size: str, options: dict[str, Any]) -> Recipe:
    """Toy world, enlarged policy and prepared data in `folder`, and the recipe that trains them."""
    from typer.testing import CliRunner

    from sayo.cli import app

    _write_policy(folder / "policy", family, size)
    world = folder / "world"
    sources = {
        "--questions": world / "train_questions.json",
        "--scene-graphs": world / "train_sceneGraphs.json",
        "--images": world / "images",
        "--processor": folder / "policy",
        "--split": "train",
        "--out": folder / "prepared",
    }
    commands = [
        ("toy", "world", "--out", world, "--num-images", 12),
        ("prepare", "gqa", *(word for pair in sources.items() for word in pair)),
    ]
    for words in commands:
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exit_code:
            raise RuntimeError(result.output)
    changes = {
        "model.name_or_path": folder / "policy",
        "data.path": folder / "prepared",
        "trainer.output_dir": folder / "run",
        "trainer.max_steps": 2,
        "trainer.per_device_train_batch_size": 4,
        "trainer.gradient_accumulation_steps": 2,
        "trainer.num_generations": 4,
        "trainer.overlay_steps": 0,
        "trainer.log_completions": "false",
        "trainer.save_strategy": "'no'",
        "trainer.gradient_checkpointing": str(bool(options.get("checkpointing"))).lower(),
        "trainer.beta": 0.04 if options.get("reference") else 0.0,
    }
    if options.get("lora"):
        changes["model.lora"] = "{r: 16, target_modules: all-linear}"
    return load_recipe("toy", [f"{key}={value}" for key, value in changes.items()])


def _write_policy(out: Path, family: str, size: str) -> None:
    """The toy policy with the layers of `SIZES`; the toy's words, so that its tokenizer fits."""
    from sayo.toyworld.policy import make_policy, make_processor

    hidden, layers, heads, kv_heads, intermediate, _, depth, vision_hidden, vision_intermediate = SIZES[size]
    small = make_policy(family)
    values = small.config.to_dict()
    values["text_config"].pop("layer_types", None)  # one entry per layer of the small model
    head_dim = hidden // heads
    values["text_config"] |= {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": intermediate,
    }
    sections = [head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6]
    values["text_config"]["rope_parameters"]["mrope_section"] = sections
    values["vision_config"] |= {
        "depth": depth,
        "hidden_size": vision_hidden,
        "intermediate_size": vision_intermediate,
        "out_hidden_size": hidden,
    }
    if "fullatt_block_indexes" in values["vision_config"]:
        values["vision_config"]["fullatt_block_indexes"] = [depth - 1]
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(type(small.config)(**values))
    model.generation_config = small.generation_config
    model.save_pretrained(out)
    processor = make_processor(family)
    processor.image_processor.size = PIXELS
    processor.save_pretrained(out)


def _measure(trainer: Any) -> dict[str, int]:
    live = LiveBytes()
    peaks = dict.fromkeys(PHASES, 0)

    def close(phase: str | None) -> None:
        """The peak since the last call belongs to `phase`; start counting anew."""
        if phase:
            peaks[phase] = max(peaks[phase], live.peak)
        live.peak = live.now

    _wrap(trainer, "_generate", lambda: close(None), lambda: close("generation"))
    _wrap(trainer, "_get_per_token_logps_and_entropies", lambda: None, lambda: _scored(trainer, close))
    _wrap(trainer, "compute_loss", lambda: close(None), lambda: None)
    _wrap(trainer, "training_step", lambda: None, lambda: close("backward"))

    class Update(TrainerCallback):
        def on_pre_optimizer_step(self, *args, **kwargs):
            close(None)

        def on_optimizer_step(self, *args, **kwargs):
            close("update")
            sizes["gradients"] = sum(
                p.grad.untyped_storage().nbytes() for p in trainer.model.parameters() if p.grad is not None
            )

    sizes: dict[str, int] = {}
    trainer.add_callback(Update())
    models = [model for model in (trainer.model, trainer.ref_model) if model is not None]
    weights = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    with live:
        live.watch(*weights)
        trainer.train()
    parameters = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for m in models for p in m.parameters()}
    return {
        "weights": sum(parameters.values()),
        "optimizer": state_bytes(trainer.optimizer),
        **sizes,
        **peaks,
        "peak": max(peaks.values()),
    }


def _scored(trainer: Any, close: Any) -> None:
    if trainer._scoring is not None:
        close("scoring")


def _wrap(trainer: Any, name: str, before: Any, after: Any) -> None:
    method = getattr(trainer, name)

    def wrapped(*args, **kwargs):
        before()
        result = method(*args, **kwargs)
        after()
        return result

    setattr(trainer, name, wrapped)
