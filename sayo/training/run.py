"""One run, from a recipe to a trained checkpoint: what `scripts/train.py` and `sayo train` do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from sayo.recipes import Recipe, RecipeError, trainer_config_class
from sayo.training import launch
from sayo.training.checkpoints import check_fits, checkpoints, newest_complete, step_of

console = Console(stderr=True)


def train(recipe: Recipe, dry_run: bool = False) -> Path:
    """Train as the recipe says and return the run's folder (`trainer.output_dir`).

    The folder holds `recipe.yaml` (resolved, launchable again), `checkpoint-<step>/`, the final model, completions,
    overlays, `trainer_state.json` (every logged metric), `environment.json` and `run_id` (its name in a tracker).

    Args:
        dry_run: check everything on ten rows and stop before the first step.

    Raises:
        RecipeError, ValueError: what is wrong and which key or command mends it.
        Interrupted: a signal asked the run to stop; a checkpoint is saved.
        OutOfMemory: with the keys to change, in order.
    """
    launch.die_with_launcher()
    launch.prepare_environment(recipe.trainer)
    trainer = build_trainer(recipe, max_samples=10 if dry_run else None)
    launch.check_launch(trainer)
    run_dir, main = Path(trainer.args.output_dir), trainer.accelerator.is_main_process
    if main:
        console.print(launch.launch_table(trainer))
    if dry_run:
        console.print(f"[green]dry run:[/] recipe, model, processor, data and rewards of {run_dir} fit together.")
        return run_dir
    checkpoint = find_checkpoint(recipe, run_dir, trainer)
    if main:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "recipe.yaml").write_text(recipe.to_yaml())
        (run_dir / "environment.json").write_text(json.dumps(launch.environment(trainer), indent=2) + "\n")
    with _same_tracker_run(run_dir, main, anew=recipe.resume == "never"):
        _train_and_save(trainer, recipe, checkpoint)
    return run_dir


def _train_and_save(trainer: Any, recipe: Recipe, checkpoint: Path | None) -> None:
    from sayo.report.tracker import send_report
    from sayo.training.fading import WarnWhenFading
    from sayo.training.interrupt import Interrupted, StopOnSignal
    from sayo.training.memory import memory_advice

    stop = StopOnSignal(trainer.accelerator)
    trainer.add_callback(stop)
    trainer.add_callback(WarnWhenFading())
    with memory_advice(trainer, recipe):
        trainer.train(resume_from_checkpoint=checkpoint)
        if not stop.stopped:
            trainer.save_model()
            trainer.save_state()
            send_report(trainer)
    _leave_together(trainer)
    if stop.stopped:
        raise Interrupted(
            f"Stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, which is saved in "
            f"{trainer.args.output_dir}. The same command goes on from there."
        )


def build_trainer(recipe: Recipe, max_samples: int | None = None) -> Any:
    """The recipe's trainer: `RegionGRPOTrainer`, or `AnchoredSFTTrainer` for a recipe without rewards."""
    from sayo.training import setup

    try:
        args = trainer_config_class(recipe)(**recipe.trainer)
    except TypeError as error:
        raise RecipeError(f"`trainer`: {error}") from None
    launch.check_processes(args)
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
        from sayo.training.sft import AnchoredSFTTrainer

        return setup.with_plain_key_names(AnchoredSFTTrainer(**shared))
    from sayo.training.grpo import RegionGRPOTrainer

    functions, args.reward_weights = setup.reward_functions(recipe)
    args.reward_gates = [entry.gate for entry in recipe.rewards.values()]
    shaper = setup.advantage_shaper(recipe)
    return setup.with_plain_key_names(RegionGRPOTrainer(reward_funcs=functions, advantage_shaper=shaper, **shared))


def find_checkpoint(recipe: Recipe, run_dir: Path, trainer: Any) -> Path | None:
    """The checkpoint to go on from: the newest complete one (`resume: auto`), none (`never`), or the one named.

    Raises:
        RecipeError: the named checkpoint does not exist, or newer ones are in the way of the start asked for.
        CheckpointError: this launch cannot go on from it.
    """
    newest, skipped = newest_complete(run_dir)
    if recipe.resume == "auto":
        chosen = newest
        if trainer.accelerator.is_main_process:
            for message in skipped:
                console.print(f"[yellow]warning:[/] {message}", highlight=False)
    else:
        chosen = None if recipe.resume == "never" else Path(recipe.resume)
        if chosen is not None and not chosen.is_dir():
            raise RecipeError(f"`resume: {recipe.resume}` is neither auto, never, nor a checkpoint folder.")
        start = step_of(chosen) if chosen in checkpoints(run_dir) else 0
        newer = [path for path in checkpoints(run_dir) if step_of(path) > start]
        if newer:
            raise RecipeError(
                f"`resume: {recipe.resume}` starts at step {start}, but {run_dir} holds {newer[-1].name}. Take "
                "`resume=auto` to go on from it, another trainer.output_dir, or move the newer checkpoints away."
            )
    if chosen is not None:
        check_fits(chosen, trainer.args.world_size, launch.sharding(trainer))
        if trainer.accelerator.is_main_process:
            console.print(f"going on from {chosen}")
    return chosen


@contextmanager
def _same_tracker_run(run_dir: Path, main: bool, anew: bool) -> Iterator[None]:
    """A restarted run goes on in the same curves; names that the user has set in the environment win."""
    from sayo.training.resume import run_id

    names = {"WANDB_RUN_ID": run_id(run_dir, anew), "WANDB_RESUME": "allow"} if main else {}
    ours = {name: value for name, value in names.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _leave_together(trainer: Any) -> None:
    """Ranks that end apart can abort in gloo's destructor after the work is done: meet first, then part."""
    import torch.distributed as distributed

    trainer.accelerator.wait_for_everyone()
    if distributed.is_initialized():
        distributed.destroy_process_group()
