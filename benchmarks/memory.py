"""Is `sayo preflight` right about memory? Real models, real steps, every live tensor counted.

    python -m benchmarks.memory --quick
    python -m benchmarks.memory --out benchmarks/results/preflight_cpu.json --check

Every case runs in a process of its own: Qwen3-VL and Qwen2.5-VL of 9M to 390M random parameters do two micro-batches
of forward and backward through TRL's fused head and one AdamW step, twice; GRPO cases run `RegionGRPOTrainer` on toy
data, generation and update. `LiveBytes` counts the bytes of all live tensor storages, so no allocator blurs the
result; what kernels allocate and free inside themselves is not counted. The target is a peak within 15%.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from benchmarks.harness import finish, make_toy_data, options_of, own_process, write
from benchmarks.models import SHAPES, make_config, make_model, write_checkpoint
from sayo.preflight.estimate import estimate
from sayo.preflight.memory import memory_of
from sayo.preflight.policy import MetaPolicy
from sayo.preflight.setting import Setting, TokenCount
from sayo.preflight.trace import LiveBytes
from sayo.recipes import ModelSection, Recipe, load_recipe

TOLERANCE = 0.15
GRID, TEXT, COMPLETION, BATCH = (16, 24), 20, 60, 4  # patches of one image: 96 visual tokens
PIXELS = {"shortest_edge": 192 * 192, "longest_edge": 256 * 256}  # toy pictures are enlarged: 144 visual tokens
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
OPTIONS = {
    "checkpointing": {"checkpointing": True},
    "bf16": {"bf16": True},
    "bf16-weights": {"bf16": True, "dtype": "bfloat16"},
    "LoRA": {"lora": LORA},
    "frozen-vision": {"freeze_vision": True},
    "GRPO": {"grpo": True},
    "reference": {"reference": True},
}
QUICK = ["qwen3_vl 12M", "qwen2_5_vl 12M LoRA bf16", "qwen3_vl 12M GRPO"]
CASES = [  # family, shape, then keys of `OPTIONS`
    *QUICK,
    "qwen3_vl 12M checkpointing",
    "qwen2_5_vl 12M",
    "qwen3_vl 80M",
    "qwen3_vl 80M checkpointing",
    "qwen3_vl 80M bf16",
    "qwen3_vl 80M bf16-weights",
    "qwen3_vl 80M LoRA checkpointing",
    "qwen3_vl 80M frozen-vision",
    "qwen2_5_vl 80M",
    "qwen2_5_vl 80M LoRA bf16-weights",
    "qwen3_vl 390M checkpointing",
    "qwen2_5_vl 390M checkpointing",
    "qwen2_5_vl 12M GRPO",
    "qwen3_vl 80M GRPO LoRA checkpointing",
    "qwen3_vl 80M GRPO reference",
]


def make_setting(**options: Any) -> Setting:
    """One process, two micro-batches per step, without generation; `options` are fields of `Setting`."""
    visual = GRID[0] * GRID[1] // 4
    shared = {"gpus": 1, "sharding": "ddp", "device": "cpu", "bf16": False, "checkpointing": False}
    shared |= {"micro_batch": BATCH, "accumulation": 2, "completion_tokens": COMPLETION}
    return Setting(**{**shared, "tokens": TokenCount(visual, TEXT, visual, TEXT), **options})


def measure_case(case: str) -> dict[str, Any]:
    """`{"case", "parameters", "measured", "predicted"}` of one of `CASES`: bytes by item and phase."""
    family, shape, *names = case.split()
    options = {key: value for name in names for key, value in OPTIONS[name].items()}
    measure = _measure_grpo if options.pop("grpo", False) else _measure_steps
    parameters, phases, measured = measure(family, shape, options)
    predicted = {phase: sum(items.values()) for phase, items in phases.items() if phase in measured}
    update = phases["update"]
    predicted |= {"weights": update["weights"] + update["reference model"], "optimizer": update["optimizer"]}
    predicted |= {"gradients": update["gradients"], "peak": max(predicted.values())}
    measured["peak"] = max(measured.values())
    error = predicted["peak"] / measured["peak"] - 1
    return {"case": case, "parameters": parameters, "measured": measured, "predicted": predicted, "error": error}


def _measure_steps(family: str, shape: str, options: dict[str, Any]) -> tuple[int, dict, dict[str, int]]:
    """Two optimizer steps; peaks are those of the second, when the optimizer's state is there."""
    names = {
        "dtype": "float32",
        **{name: options.pop(name) for name in [*options] if name not in Setting.__annotations__},
    }
    section, setting = ModelSection(name_or_path="random", **names), make_setting(**options)
    policy = MetaPolicy(section, make_config(family, SHAPES[shape]))
    model = _real_model(family, shape, section)
    if setting.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    inputs = _inputs(policy.config, setting)
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
            gradients = gradient_bytes(model)
            optimizer.step()
            peaks["update"] = live.peak
            optimizer.zero_grad(set_to_none=True)
    static = {"weights": weight_bytes(model), "optimizer": state_bytes(optimizer), "gradients": gradients}
    return policy.parameters, memory_of(policy, setting), {**peaks, **static}


def _real_model(family: str, shape: str, section: ModelSection) -> nn.Module:
    """As the trainer prepares it: fused head, LoRA in float32, checkpointing without re-entrance."""
    from peft import get_peft_model
    from trl.trainer.utils import add_fused_lm_head

    from sayo.training.setup import lora_config

    model = make_model(family, SHAPES[shape], dtype=getattr(torch, section.dtype)).train()
    model.model.visual.requires_grad_(not section.freeze_vision)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return get_peft_model(model, lora_config(section)) if section.lora else model


def _inputs(config: Any, setting: Setting) -> dict[str, torch.Tensor]:
    """One micro-batch; one sequence ends early, as completions do."""
    generator, vision = torch.Generator().manual_seed(0), config.vision_config
    words = torch.randint(200, 4000, (BATCH, setting.length), generator=generator)
    words[:, 1] = config.vision_start_token_id
    words[:, 2 : 2 + setting.tokens.visual] = config.image_token_id
    mask = torch.ones_like(words)
    mask[0, -7:] = 0
    patch = 3 * vision.temporal_patch_size * vision.patch_size**2
    return {
        "input_ids": words,
        "attention_mask": mask,
        "mm_token_type_ids": (words == config.image_token_id).long(),
        "pixel_values": torch.randn(BATCH * GRID[0] * GRID[1], patch, generator=generator),
        "image_grid_thw": torch.tensor([[1, *GRID]] * BATCH),
    }


def _measure_grpo(family: str, shape: str, options: dict[str, Any]) -> tuple[int, dict, dict[str, int]]:
    """Two steps of `RegionGRPOTrainer`."""
    from sayo.training.run import build_trainer

    with tempfile.TemporaryDirectory(prefix="sayo_bench_") as folder:
        write_checkpoint(Path(folder, "policy"), family, SHAPES[shape], PIXELS)
        recipe = _grpo_recipe(Path(folder), options)
        priced = estimate(recipe, gpus=1, sharding="ddp")
        measured = _watch(build_trainer(recipe))
    return priced.policy.parameters, priced.chosen.phases, measured


def _grpo_recipe(folder: Path, options: dict[str, Any]) -> Recipe:
    changes = {
        "model.name_or_path": folder / "policy",
        "data.path": make_toy_data(folder, folder / "policy", 12),
        "trainer.output_dir": folder / "run",
        "trainer.max_steps": 2,
        "trainer.per_device_train_batch_size": 4,
        "trainer.gradient_accumulation_steps": 2,
        "trainer.num_generations": 4,
        "trainer.overlay_steps": 0,
        "trainer.log_completions": "false",
        "trainer.save_strategy": "'no'",
        "trainer.gradient_checkpointing": str(options.get("checkpointing", False)).lower(),
        "trainer.beta": 0.04 if options.get("reference") else 0.0,
        "model.lora": "{r: 16, target_modules: all-linear}" if options.get("lora") else "null",
    }
    return load_recipe("toy", [f"{key}={value}" for key, value in changes.items()])


class PhasePeaks(TrainerCallback):
    """Peaks of live bytes by phase, and the gradients' bytes when the optimizer steps."""

    def __init__(self, live: LiveBytes):
        self.live, self.bytes = live, {}

    def open(self, *_: Any) -> None:
        """Start counting anew."""
        self.live.peak = self.live.now

    def close(self, phase: str) -> None:
        """The peak since the last opening belongs to `phase`."""
        self.bytes[phase] = max(self.bytes.get(phase, 0), self.live.peak)
        self.open()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.open()

    def on_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.close("update")
        self.bytes["gradients"] = gradient_bytes(model)

    def wrap(self, trainer: Any, name: str, phase: str) -> None:
        """Count the calls of a trainer's method as a phase."""
        method = getattr(trainer, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if name != "training_step":  # its phase opens with the loss, after generation
                self.open()
            result = method(*args, **kwargs)
            if name != "compute_loss":  # and goes on in the backward pass
                self.close(phase)
            return result

        setattr(trainer, name, wrapped)


def _watch(trainer: Any) -> dict[str, int]:
    live = LiveBytes()
    peaks = PhasePeaks(live)
    for name, phase in {"_generate": "generation", "compute_loss": "", "training_step": "backward"}.items():
        peaks.wrap(trainer, name, phase)
    trainer.add_callback(peaks)
    models = [model for model in (trainer.model, trainer.ref_model) if model is not None]
    with live:
        live.watch(*(tensor for model in models for tensor in (*model.parameters(), *model.buffers())))
        trainer.train()
    return {**peaks.bytes, "weights": weight_bytes(*models), "optimizer": state_bytes(trainer.optimizer)}


def weight_bytes(*models: nn.Module) -> int:
    """Bytes of the parameters, shared ones once."""
    storages = {p.untyped_storage()._cdata: p.untyped_storage() for m in models for p in m.parameters()}
    return sum(storage.nbytes() for storage in storages.values())


def gradient_bytes(model: nn.Module) -> int:
    return sum(p.grad.untyped_storage().nbytes() for p in model.parameters() if p.grad is not None)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the optimizer's moments."""
    tensors = (value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value))
    return sum(value.untyped_storage().nbytes() for value in tensors if value.dim())


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--case", help="measure this one here and print JSON")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure_case(options.case)))
        return
    rows = []
    for case in QUICK if options.quick else [case for case in CASES if options.only in case]:
        print(case, file=sys.stderr)
        rows.append(own_process("benchmarks.memory", "--case", case))
        write(options.out, rows, tolerance=TOLERANCE)
    shown = [{**row, **{f"{name} MB": _pair(row, name) for name in row["measured"]}} for row in rows]
    missed = [row["case"] for row in rows if abs(row["error"]) > TOLERANCE]
    finish(options, "Memory in MB: predicted / measured", rows, missed, shown=shown, tolerance=TOLERANCE)


def _pair(row: dict, name: str) -> str:
    return f"{row['predicted'][name] / 1e6:.0f} / {row['measured'][name] / 1e6:.0f}"


if __name__ == "__main__":
    main()
