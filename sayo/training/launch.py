"""What a launch really got, printed and checked: a silent single process or a missing shard must not cost a week."""

import ctypes
import os
import platform
import signal
import sys
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from sayo.recipes import RecipeError

_LAUNCH = "sayo launch --sharding {} --config-name RECIPE ..."


def is_behind_launcher() -> bool:
    """Whether torch's launcher (below accelerate's and torchrun) started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def die_with_launcher() -> None:
    """Ask the kernel to kill this rank when its launcher dies (Linux): an orphan would keep writing checkpoints.

    torch's launcher gives every rank its own session, so killing the launcher, even its process group, leaves the
    ranks alive.
    """
    if is_behind_launcher() and sys.platform.startswith("linux"):
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, from linux/prctl.h
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)


def prepare_environment(trainer: dict[str, Any]) -> None:
    """Settings that have to be there before the trainer's config is built; on CPU, `bf16` is false unless set."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("WANDB_PROJECT", "sayo")
    # TRL 1.16 speaks of gradient checkpointing; transformers 5.23 has a new word for it, and says so at every step.
    warnings.filterwarnings("ignore", r".*gradient_checkpointing.* is deprecated", FutureWarning)
    _check_deepspeed(trainer)
    if not trainer.get("use_cpu"):
        return
    if trainer.get("bf16") is None and not trainer.get("fp16"):
        trainer["bf16"] = False  # TRL's default, true, is meant for GPUs
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if _wants_deepspeed(trainer):
        # It would compile a shared-memory collective for a minute on every new CPU machine, and needs a compiler for
        # it; gloo serves as well.
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _wants_deepspeed(trainer: dict[str, Any]) -> bool:
    return bool(trainer.get("deepspeed")) or _is_true("ACCELERATE_USE_DEEPSPEED")


def _check_deepspeed(trainer: dict[str, Any]) -> None:
    """RecipeError before DeepSpeed starts, which compiles for minutes or fails in words of its own."""
    import torch

    if trainer.get("deepspeed") and "RANK" not in os.environ:
        raise RecipeError(
            "`trainer.deepspeed` needs a launcher, also for one process; without one every process would train "
            f"alone. Leave it out and use: {_LAUNCH.format('zero2')} (with --gpus 1)"
        )
    if _wants_deepspeed(trainer) and not trainer.get("use_cpu") and not torch.accelerator.is_available():
        raise RecipeError(
            "DeepSpeed was asked for, but no GPU is visible here. On the CPU, say so: add trainer.use_cpu=true "
            "trainer.bf16=false. Otherwise see why: nvidia-smi, CUDA_VISIBLE_DEVICES, sayo version."
        )


def check_engine(args: Any) -> None:
    """RecipeError, before the model is loaded, where `use_vllm` finds no vLLM."""
    from trl.import_utils import is_vllm_available

    if getattr(args, "use_vllm", False) and not is_vllm_available():
        raise RecipeError(
            "`trainer.use_vllm` needs vLLM in the trainer's own environment, also for a server (its client): pip "
            "install 'sayo-vlm[vllm]'. Without it, leave the key out: transformers generates."
        )


def check_processes(args: Any) -> None:
    """RecipeError, before the model is loaded, if the launcher started another kind of run than the trainer's."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if "WORLD_SIZE" not in os.environ and "MASTER_ADDR" in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise RecipeError(
            "accelerate was asked for several processes but started one (distributed_type MULTI_CPU does that "
            f"without MPI). Use: {_LAUNCH.format('cpu')} trainer.use_cpu=true (if one process is what you mean, "
            "unset MASTER_ADDR)."
        )
    if args.world_size != launched:
        raise RecipeError(
            f"The launcher started {launched} processes, but each of them trains alone ({args.world_size} process), "
            f"on {args.device.type}: they would overwrite each other. Is CUDA visible to all? Without a GPU, use: "
            f"{_LAUNCH.format('cpu')} trainer.use_cpu=true"
        )


def check_launch(trainer: Any) -> None:
    """RecipeError where the built trainer's sharding is not what the launcher asked for."""
    asked = "FSDP" if _is_true("ACCELERATE_USE_FSDP") else ""
    if _is_true("ACCELERATE_USE_DEEPSPEED"):
        asked = f"ZeRO-{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '')}"  # a DeepSpeed file may say it instead
    if not sharding(trainer).startswith(asked):
        raise RecipeError(
            f"{asked} was asked for, but this is {trainer.accelerator.distributed_type.value} with sharding "
            f"{sharding(trainer)}. accelerate has no FSDP on CPU (use zero3), and a stage in the recipe's "
            f"`trainer.deepspeed` must be the accelerate file's. Start with: {_LAUNCH.format('zero2')}"
        )


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true")


def sharding(trainer: Any) -> str:
    """`"none"`, `"ZeRO-1"`, `"ZeRO-2"`, `"ZeRO-3"` or `"FSDP"`."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if plugin is not None:
        return f"ZeRO-{plugin.zero_stage}"
    return "FSDP" if trainer.is_fsdp_enabled else "none"


def launch_facts(trainer: Any) -> dict[str, str]:
    """What the launch really got, for the terminal, the run's report and bug reports."""
    args, policy = trainer.args, trainer.model
    # ZeRO-3 keeps nothing but a shard of each parameter
    trainable = sum(getattr(p, "ds_numel", p.numel()) for p in policy.parameters() if p.requires_grad)
    autocast = "bf16" if args.bf16 else "fp16" if args.fp16 else "none"
    kind = trainer.accelerator.distributed_type.value
    facts = {
        "processes": f"{args.world_size} ({kind}, sharding {sharding(trainer)})",
        "device": str(args.device),
        "precision": f"weights {str(policy.dtype).removeprefix('torch.')}, mixed precision {autocast}",
        "attention kernel": policy.config._attn_implementation,
        "trainable parameters": f"{trainable:,}",
        "training rows": f"{len(trainer.train_dataset):,}",
        "output": args.output_dir,
    }
    if hasattr(trainer, "reward_func_names"):
        engine = f"vLLM ({args.vllm_mode})" if args.use_vllm else "transformers"
        weights = zip(trainer.reward_func_names, trainer.reward_weights.tolist(), strict=True)
        facts["rollouts"] = f"{args.num_generations} per prompt, {args.generation_batch_size} at once, {engine}"
        facts["attention read at"] = f"layers {trainer._capture.layers}"
        facts["rewards"] = ", ".join(f"{name} x {weight:g}" for name, weight in weights)
    return facts


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "trl", "accelerate", "deepspeed", "peft", "datasets")
    system = {"python": platform.python_version(), "platform": platform.platform(), "sayo": version("sayo-vlm")}
    return system | {name: version(name) if find_spec(name) else "not installed" for name in packages}
