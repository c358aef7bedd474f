"""Measured peaks for `scripts/bench_memory.py`: real models, real steps, all live tensor bytes counted."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from sayo.preflight.memory import memory_of
from sayo.preflight.policy import meta_policy
from sayo.preflight.setting import Setting
from sayo.preflight.tokens import Tokens
from sayo.preflight.trace import LiveBytes
from sayo.recipes import ModelSection

SIZES = {  # text hidden, layers, heads, kv heads, intermediate, words; vision depth, hidden, intermediate
    "12M": (256, 6, 8, 4, 1024, 4096, 4, 192, 512),
    "80M": (512, 8, 8, 4, 2048, 32000, 6, 320, 1024),
    "390M": (1024, 12, 16, 4, 4096, 80000, 8, 512, 2048),
}
IMAGE, VIDEO, VISION_START, VISION_END, PAD, EOS = 90, 91, 92, 93, 0, 1
GRID, PATCH, MERGE = (16, 24), 14, 2  # patches of one image: 96 visual tokens
TEXT, COMPLETION, BATCH = 20, 60, 4


def make_config(family: str, size: str) -> Any:
    """A config of the real class; `size` is a key of `SIZES`."""
    hidden, layers, heads, kv_heads, intermediate, words, depth, vision_hidden, vision_intermediate = SIZES[size]
    head_dim = hidden // heads
    text = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": intermediate,
        "vocab_size": words,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "bos_token_id": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6],
        },
    }
    vision = {
        "depth": depth,
        "hidden_size": vision_hidden,
        "intermediate_size": vision_intermediate,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "out_hidden_size": hidden,
    }
    ids = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
        "tie_word_embeddings": False,
    }
    if family == "qwen3_vl":
        vision |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [1, 2]}
        return transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    vision |= {"window_size": 8 * PATCH, "fullatt_block_indexes": [depth - 1]}
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)


def measure_case(family: str, size: str, options: dict[str, Any]) -> dict[str, Any]:
    """`{"parameters", "measured", "predicted"}`, bytes by item, of one case of the benchmark."""
    if options.get("grpo"):
        from sayo.preflight.bench_grpo import measure_grpo

        return measure_grpo(family, size, options)
    config = make_config(family, size)
    section = ModelSection(
        "random",
        dtype=options.get("dtype", "float32"),
        lora=_lora(options),
        freeze_vision=options.get("freeze_vision", False),
    )
    setting = make_setting(options)
    policy = meta_policy(section, config)
    memory = memory_of(policy, setting)
    predicted = {
        "weights": memory.always["weights"],
        "optimizer": memory.always["optimizer"],
        "gradients": memory.phases["update"]["gradients"],
        "backward": memory.phase_peak("backward"),
        "update": memory.phase_peak("update"),
    }
    predicted["peak"] = max(predicted["backward"], predicted["update"])
    measured = _measure(_real_model(config, section), setting)
    return {"parameters": policy.total().parameters, "measured": measured, "predicted": predicted}


def _lora(options: dict[str, Any]) -> dict[str, Any] | None:
    return {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"} if options.get("lora") else None


def make_setting(options: dict[str, Any]) -> Setting:
    """One GPU, two micro-batches per step, without generation; `options` as in `CASES` of the script."""
    tokens = Tokens(TEXT, GRID[0] * GRID[1] // MERGE**2)
    return Setting(
        gpus=1,
        sharding="ddp",
        device="cpu",
        micro_batch=BATCH,
        accumulation=2,
        generation_batch=0,
        num_iterations=1,
        num_generations=1,
        longest=tokens,
        typical=tokens,
        completion_tokens=COMPLETION,
        bf16=options.get("bf16", False),
        checkpointing=options.get("checkpointing", False),
        reading_layers=0,
        maps=False,
        byte_budget=0,
        engine="none",
        vllm_share=0.0,
        vllm_sleeps=False,
        gather_to_generate=False,
        reference="none",
    )


def _real_model(config: Any, section: ModelSection) -> nn.Module:
    """As the trainer prepares it: fused head, LoRA in float32, checkpointing without re-entrance."""
    from peft import get_peft_model
    from trl.trainer.utils import add_fused_lm_head

    from sayo.training.setup import lora_config

    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, section.dtype))
    if section.freeze_vision:
        for parameter in model.model.visual.parameters():
            parameter.requires_grad_(False)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return get_peft_model(model, lora_config(section)) if section.lora else model


def _inputs(setting: Setting) -> dict[str, torch.Tensor]:
    """One micro-batch; one sequence ends early, as completions do."""
    generator = torch.Generator().manual_seed(0)
    visual, batch = setting.longest.visual, setting.micro_batch
    words = torch.randint(100, 4000, (batch, setting.longest.total + setting.completion_tokens), generator=generator)
    words[:, 1] = VISION_START
    words[:, 2 : 2 + visual] = IMAGE
    mask = torch.ones_like(words)
    mask[0, -7:] = 0
    return {
        "input_ids": words,
        "attention_mask": mask,
        "mm_token_type_ids": (words == IMAGE).long(),
        "pixel_values": torch.randn(batch * GRID[0] * GRID[1], 3 * 2 * PATCH**2, generator=generator),
        "image_grid_thw": torch.tensor([[1, *GRID]] * batch),
    }


def _measure(model: nn.Module, setting: Setting) -> dict[str, int]:
    """Two optimizer steps; peaks are those of the second, when the optimizer's state is there."""
    model.train()
    if setting.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    inputs = _inputs(setting)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, : -setting.completion_tokens] = -100
    live, peaks = LiveBytes(), {}
    with live:
        live.watch(*model.parameters(), *model.buffers(), *inputs.values(), labels)
        for _ in range(2):
            live.peak = live.now
            for _ in range(setting.accumulation):
                with torch.autocast("cpu", torch.bfloat16, enabled=setting.bf16):
                    output = model(**inputs, labels=labels, fused_lm_head=True)
                (-output.log_probs.sum()).backward()
                del output
            peaks["backward"], live.peak = live.peak, live.now
            gradients = sum(p.grad.untyped_storage().nbytes() for p in trained if p.grad is not None)
            optimizer.step()
            peaks["update"] = live.peak
            optimizer.zero_grad(set_to_none=True)
    return {
        "weights": sum(parameter.untyped_storage().nbytes() for parameter in model.parameters()),
        "optimizer": state_bytes(optimizer),
        "gradients": gradients,
        **peaks,
        "peak": max(peaks.values()),
    }


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the optimizer's moments."""
    tensors = (value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value))
    return sum(value.untyped_storage().nbytes() for value in tensors if value.dim())
