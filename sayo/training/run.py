"""One run, from a recipe to a trained checkpoint: what `sayo train` and `scripts/train.py` do."""

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch.distributed
from accelerate.utils import patch_environment
from rich.console import Console
from rich.table import Table
from transformers import ProgressCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.utils.logging import disable_progress_bar

from sayo.errors import SayoError
from sayo.recipes import Recipe, RecipeError
from sayo.training import launch, ranks, setup, start
from sayo.training.callbacks import Interrupted, StopOnSignal, WarnWhenFading
from sayo.training.checkpoints import checkpoints, newest_complete, step_of
from sayo.training.dry_run import try_one_group
from sayo.training.grpo import RegionGRPOTrainer
from sayo.training.guards import check_dataset, check_enough_rows, out_of_memory_named
from sayo.training.pictures import check_pictures
from sayo.training.progress import Progress, print_end
from sayo.training.sft import AnchoredSFTTrainer

console = Console(stderr=True)


def train(recipe: Recipe, dry_run: bool = False, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Train as the recipe says and return the run's folder (`trainer.output_dir`).

    The folder holds `recipe.yaml` (resolved, launchable again), `start.json` (see `sayo.training.start`),
    `checkpoint-<step>/`, the final model, completions, overlays, `trainer_state.json` (every logged metric),
    `environment.json` and `run_id` (its name in a tracker).

    Args:
        dry_run: check everything on ten rows, roll out one tiny group, and stop before the first step.
        callbacks: added to the trainer.

    Raises:
        RecipeError, BadPicture: what is wrong and which key or command fixes it; also a key that cannot change within
            a run.
        RankError: a rank is missing, or has another output_dir than the rest.
        CheckpointError: this launch cannot resume from the checkpoint, or a checkpoint cannot be written.
        Interrupted: a signal asked the run to stop; a checkpoint is saved.
        NonFiniteError, OutOfMemory: see `sayo.training.guards`.
    """
    launch.prepare_environment(recipe.trainer)
    trainer = build_trainer(recipe, max_samples=10 if dry_run else None)
    launch.check_launch(trainer)
    run_dir, main = Path(trainer.args.output_dir), trainer.accelerator.is_main_process
    facts = launch.launch_facts(trainer)
    if main:
        table = Table(title="sayo", show_header=False, title_justify="left")
        for row in facts.items():
            table.add_row(*row)
        console.print(table)
    chosen = ranks.of_rank_0(lambda: _choose(recipe, run_dir), trainer.args.ddp_timeout)
    checkpoint, messages, trainer.start, trainer.changes = chosen
    if dry_run:
        check_pictures(trainer)
        done = try_one_group(trainer)
        console.print(f"[green]dry run:[/] recipe, model, processor, data and rewards of {run_dir} fit together.")
        console.print(done, highlight=False)
        return run_dir
    if main:
        for message in messages:
            console.print(message, highlight=False)
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "recipe.yaml").write_text(recipe.to_yaml())
        start.write(run_dir, trainer.start)
        environment = {**facts, "versions": launch.versions()}
        (run_dir / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
    stop = StopOnSignal(trainer.accelerator)
    bar = [Progress()] if trainer.pop_callback(ProgressCallback) else []
    disable_progress_bar()  # of files that are read and written
    for board in trainer.callback_handler.callbacks:
        if isinstance(board, TensorBoardCallback) and board.logging_dir is None:
            board.logging_dir = str(run_dir / "runs" / "tensorboard")  # the same for every start: one curve
    for callback in (stop, WarnWhenFading(), *bar, *callbacks):
        trainer.add_callback(callback)
    out_of_memory = out_of_memory_named(trainer.args.world_size, launch.sharding(trainer))
    with same_tracker_run(run_dir, main, anew=recipe.resume == "never"), out_of_memory, stop.listening():
        trainer.train(resume_from_checkpoint=checkpoint)
        if not stop.stopped:
            trainer.save_model()
            trainer.save_state()
    # Ranks that end apart can abort in gloo's destructor after the work is done: meet first, then part.
    trainer.accelerator.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if stop.stopped:
        raise Interrupted(
            f"Stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, which is saved in "
            f"{run_dir}. The same command resumes from there."
        )
    if main and bar:
        print_end(console, recipe, run_dir, trainer.state.log_history)
    return run_dir


def build_trainer(recipe: Recipe, max_samples: int | None = None) -> RegionGRPOTrainer | AnchoredSFTTrainer:
    """The recipe's trainer: `RegionGRPOTrainer`, or `AnchoredSFTTrainer` for a recipe without rewards.

    Raises:
        SayoError: see `setup.check_recipe` and the trainers.
        RecipeError: transformers, peft or TRL refuses the settings (its own error is the cause).
    """
    setup.check_recipe(recipe)
    try:
        return setup.with_plain_key_names(_trainer(recipe, max_samples))
    except (TypeError, ValueError, ImportError, NotImplementedError) as error:
        if isinstance(error, SayoError):
            raise
        on_cpu = " On a CPU, say so: add trainer.use_cpu=true trainer.bf16=false." if "use_cpu" in str(error) else ""
        raise RecipeError(f"The trainer cannot be built: {error}{on_cpu}") from error


def _trainer(recipe: Recipe, max_samples: int | None) -> RegionGRPOTrainer | AnchoredSFTTrainer:
    args = setup.trainer_config_class(recipe)(**recipe.trainer)
    launch.check_processes(args)
    launch.check_engine(args)
    ranks.check_shared(Path(args.output_dir), args.ddp_timeout)
    data, count = recipe.data, setup.count_rows(recipe.data)
    check_enough_rows(count, args)
    if max_samples is not None:
        data = data.model_copy(update={"max_samples": min(max_samples, count)})
    policy = setup.load_policy(recipe.model)
    shared = {
        "args": args,
        "model": policy,
        "processing_class": setup.load_processor(recipe.model),
        "train_dataset": setup.load_data(data, data.split),
        "eval_dataset": setup.load_data(data, data.eval_split) if data.eval_split else None,
        "peft_config": setup.lora_config(recipe.model, policy),
    }
    if not recipe.rewards:
        return AnchoredSFTTrainer(**shared)
    for rows in (shared["train_dataset"], shared["eval_dataset"]):  # the trainer, too, but it does not know the folder
        check_dataset(rows, shared["processing_class"], shared["model"].config, recipe.data.path)
    args.reward_weights = [section.weight for section in recipe.rewards.values()]
    args.reward_gates = [section.gate for section in recipe.rewards.values()]
    rewards = [setup.bound_function(section, f"rewards.{name}") for name, section in recipe.rewards.items()]
    shaper = recipe.advantage_shaper and setup.bound_function(recipe.advantage_shaper, "advantage_shaper")
    return RegionGRPOTrainer(reward_funcs=rewards, advantage_shaper=shaper, **shared)


def _choose(recipe: Recipe, run_dir: Path) -> tuple[str | None, list[str], dict, list]:
    """The checkpoint, messages about it, the description of this start, and in what it differs from the last one."""
    checkpoint, messages = find_checkpoint(recipe, run_dir)
    now = start.describe(recipe)
    changes = start.changes(checkpoint, now, recipe) if checkpoint else []
    if checkpoint and not (checkpoint / start.FILE).is_file():
        messages.append(f"[yellow]warning:[/] {checkpoint} holds no {start.FILE}: the recipes were not compared.")
    messages += [f"from step {change['step']} on: {start.sentence(change)}" for change in changes]
    return checkpoint and str(checkpoint), messages, now, changes


def find_checkpoint(recipe: Recipe, run_dir: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, as `recipe.resume` says, and messages about it.

    Raises:
        RecipeError: the named checkpoint does not exist, or newer ones are in the way of the start asked for.
    """
    newest, skipped = newest_complete(run_dir)
    messages = []
    if recipe.resume == "auto":
        chosen, messages = newest, [f"[yellow]warning:[/] {message}" for message in skipped]
    else:
        chosen = None if recipe.resume == "never" else Path(recipe.resume)
        if chosen is not None and not chosen.is_dir():
            raise RecipeError(
                f"`resume: {recipe.resume}` is neither auto, never, nor a checkpoint folder such as "
                f"{newest or run_dir / 'checkpoint-40'}."
            )
        own = next((path for path in checkpoints(run_dir) if chosen and path.samefile(chosen)), None)
        first = step_of(own) if own else 0
        if newer := [path for path in checkpoints(run_dir) if step_of(path) > first]:
            raise RecipeError(
                f"`resume: {recipe.resume}` starts at step {first}, but {run_dir} holds {newer[-1].name}. Take "
                "`resume=auto` to resume from it, another trainer.output_dir, or move the newer checkpoints away."
            )
    return chosen, [*messages, f"resuming from {chosen}"] if chosen else messages


def same_tracker_run(run_dir: Path, main: bool, anew: bool) -> AbstractContextManager[None]:
    """A restarted run continues the same curves; names that the user has set in the environment win."""
    if not main:
        return nullcontext()
    file = run_dir / "run_id"
    if anew or not file.is_file():
        file.write_text(os.urandom(8).hex())
    names = {"WANDB_RUN_ID": file.read_text(), "WANDB_RESUME": "allow"}
    return patch_environment(**{name: value for name, value in names.items() if name not in os.environ})
