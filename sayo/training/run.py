"""One run, from a recipe to a trained checkpoint: what `scripts/train.py` and `sayo train` do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sayo.recipes import Recipe, RecipeError, trainer_config_class

console = Console(stderr=True)


def train(recipe: Recipe, dry_run: bool = False) -> Path:
    """Train as the recipe says and return the run's folder (`trainer.output_dir`).

    The folder holds `recipe.yaml` (resolved, launchable again), `checkpoint-<step>/`, the final model, completions,
    overlays and `trainer_state.json` (every logged metric).

    Args:
        dry_run: check everything on ten rows and stop before the first step.

    Raises:
        RecipeError, ValueError: what is wrong and which key or command mends it.
    """
    _prepare_environment(recipe)
    trainer = build_trainer(recipe, max_samples=10 if dry_run else None)
    run_dir = Path(trainer.args.output_dir)
    if trainer.accelerator.is_main_process:
        console.print(launch_table(trainer))
    if dry_run:
        console.print(f"[green]dry run:[/] recipe, model, processor, data and rewards of {run_dir} fit together.")
        return run_dir
    if trainer.accelerator.is_main_process:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "recipe.yaml").write_text(recipe.to_yaml())
    trainer.train(resume_from_checkpoint=find_checkpoint(recipe, run_dir))
    trainer.save_model()
    trainer.save_state()
    _leave_together(trainer)
    return run_dir


def build_trainer(recipe: Recipe, max_samples: int | None = None) -> Any:
    """The recipe's trainer: `RegionGRPOTrainer`, or TRL's `SFTTrainer` for a recipe without rewards."""
    from sayo.training import setup

    try:
        args = trainer_config_class(recipe)(**recipe.trainer)
    except TypeError as error:
        raise RecipeError(f"`trainer`: {error}") from None
    data = recipe.data
    if max_samples is not None:
        data.max_samples = max_samples
    shared = {
        "args": args,
        "model": setup.load_policy(recipe.model),
        "processing_class": setup.load_processor(recipe.model),
        "train_dataset": setup.load_data(data, data.split),
        "eval_dataset": setup.load_data(data, data.eval_split) if data.eval_split else None,
        "peft_config": setup.lora_config(recipe.model),
    }
    if not recipe.rewards:
        from trl import SFTTrainer

        return SFTTrainer(**shared)
    from sayo.training.grpo import RegionGRPOTrainer

    functions, args.reward_weights = setup.reward_functions(recipe)
    return RegionGRPOTrainer(reward_funcs=functions, **shared)


def find_checkpoint(recipe: Recipe, run_dir: Path) -> str | None:
    """The checkpoint to go on from: the newest (`resume: auto`), none (`never`), or the one named.

    Raises:
        RecipeError: the named checkpoint does not exist.
    """
    from transformers.trainer_utils import get_last_checkpoint

    if recipe.resume == "never":
        return None
    if recipe.resume == "auto":
        return get_last_checkpoint(str(run_dir)) if run_dir.is_dir() else None
    if not Path(recipe.resume).is_dir():
        raise RecipeError(f"`resume: {recipe.resume}` is neither auto, never, nor a checkpoint folder.")
    return recipe.resume


def launch_table(trainer: Any) -> Table:
    """What the launch really got; a silent single process or a missing shard shows here, not after a week."""
    args, accelerator = trainer.args, trainer.accelerator
    stage = accelerator.deepspeed_plugin.zero_stage if accelerator.deepspeed_plugin else None
    sharding = f"ZeRO-{stage}" if stage is not None else "FSDP" if trainer.is_fsdp_enabled else "none"
    policy = trainer.model
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    rows = {
        "processes": f"{accelerator.num_processes} ({accelerator.distributed_type.value}, sharding {sharding})",
        "device": str(accelerator.device),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "attention kernel": policy.config._attn_implementation,
        "trainable parameters": f"{trainable:,}",
        "training rows": f"{len(trainer.train_dataset):,}",
        "output": args.output_dir,
    }
    if hasattr(trainer, "reward_func_names"):
        engine = f"vLLM ({args.vllm_mode})" if args.use_vllm else "transformers"
        weights = zip(trainer.reward_func_names, trainer.reward_weights.tolist(), strict=True)
        rows["rollouts"] = f"{args.num_generations} per prompt, {args.generation_batch_size} at once, {engine}"
        rows["attention read at"] = f"layers {trainer._capture.layers}"
        rows["rewards"] = ", ".join(f"{name} x {weight:g}" for name, weight in weights)
    table = Table(title="sayo", show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _prepare_environment(recipe: Recipe) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("WANDB_PROJECT", "sayo")
    if recipe.trainer.get("use_cpu"):
        # DeepSpeed would compile a shared-memory collective for a minute on every new CPU machine, and needs a
        # compiler for it; gloo serves as well.
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _leave_together(trainer: Any) -> None:
    """Ranks that end apart can abort in gloo's destructor after the work is done: meet first, then part."""
    import torch.distributed as distributed

    trainer.accelerator.wait_for_everyone()
    if distributed.is_initialized():
        distributed.destroy_process_group()
