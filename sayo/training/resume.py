"""Exact resume: a run that was killed anywhere resumes as if nothing had happened, bit by bit.

transformers saves, per rank, the weights (or their shards), the optimizer, the scheduler, the random states and the
log. What it and TRL forget is saved here, in `training_state_<rank>.pt`, as tensors and plain values only:
where a generation block stands and the completions that its later steps will still use; metrics and losses since the
last log line, the completions of the next table, and SFT's count of tokens; the reference model where it moves
(`sync_ref_model`); the seconds that the run has taken. The order of the data is not saved but replayed: TRL's sampler
draws one permutation per epoch. Not covered: the random state of a vLLM engine, and reward functions with a state of
their own (random numbers from Python's, numpy's or torch's global generators are covered).

A start may differ from the one that wrote the checkpoint (`sayo.training.start` says in what): the new settings of the
optimizer and of the schedule then take the place of the saved ones.
"""

import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, send_to_device
from peft import PeftModel
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler

from sayo.training import checkpoints, ranks, start
from sayo.training.checkpoints import CheckpointError
from sayo.training.launch import sharding

HYPERPARAMETERS = ("lr", "initial_lr", "betas", "eps", "weight_decay")
"""Of a parameter group: what a recipe sets. The rest is the optimizer's own, such as its count of steps."""


class ExactResume:
    """Mixin in front of a TRL trainer; `train(resume_from_checkpoint=...)` then continues exactly.

    start: what the run was started with (`sayo.training.start.describe`), or None; saved in every checkpoint.
    changes: in what it differs from the start that wrote the checkpoint (`sayo.training.start.changes`).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.start: dict[str, Any] | None = None
        self.changes: list[dict[str, Any]] = []
        self._resumed_from: Path | None = None
        self._fresh_groups: list[dict[str, Any]] = []
        self._sampler: Any = None
        self.add_callback(_RestoreOnTrainBegin(self))

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs):
        """As in transformers; `True` takes the newest complete checkpoint of `args.output_dir`, if there is one.

        CheckpointError where this launch cannot resume exactly from the checkpoint.
        """
        limit = self.args.ddp_timeout
        if resume_from_checkpoint is True:
            run_dir = Path(self.args.output_dir)
            resume_from_checkpoint = ranks.of_rank_0(lambda: str(checkpoints.newest_complete(run_dir)[0] or ""), limit)
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        # No rank may write before all have looked, and all must see the same.
        if len(set(ranks.together(self._look, limit))) > 1:
            raise CheckpointError(f"The ranks see different checkpoints in {self._resumed_from or 'output_dir'}.")
        return super().train(resume_from_checkpoint=self._resumed_from and str(self._resumed_from), **kwargs)

    def _look(self) -> str:
        if self._resumed_from is None:
            return ""
        world_size = self.args.world_size
        return checkpoints.check_fits(self._resumed_from, world_size, sharding(self), self.args.process_index)

    def _save_checkpoint(self, model, trial):
        run_dir = Path(self._get_output_dir(trial=trial))
        folder = run_dir / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # deleting waits for COMPLETE
        try:
            if self.args.should_save:
                checkpoints.begin(folder)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            if not self.args.save_only_model:
                torch.save(self._training_state(), self._state_file(folder))
            if self.args.should_save and self.start is not None:
                start.write(folder, self.start)
            self.accelerator.wait_for_everyone()
            self._finish(folder)
        except Exception as error:
            last, _ = checkpoints.newest_complete(run_dir)
            raise CheckpointError(
                f"{folder} could not be written: {type(error).__name__}: {error}. The last complete checkpoint is "
                f"{last or 'none'}; nothing was deleted. There are {shutil.disk_usage(run_dir).free / 2**30:.1f} GiB "
                "free on that disk: make room (trainer.save_total_limit=2 keeps fewer), then start the same command "
                "again."
            ) from error
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            checkpoints.prune(run_dir, limit, self.state.best_model_checkpoint)

    def _finish(self, folder: Path) -> None:
        """When all have written: flush, let each rank digest its share of the files, and mark the folder on rank 0."""
        if self.args.local_process_index == 0:
            checkpoints.flush(folder)
        mine = list(checkpoints.file_sizes(folder))[self.args.process_index :: self.args.world_size]
        shares = gather_object([checkpoints.digests(folder, mine)])
        if self.args.should_save:
            checkpoints.mark_complete(
                folder,
                {name: digest for share in shares for name, digest in share.items()},
                world_size=self.args.world_size,
                sharding=sharding(self),
                model_only=self.args.save_only_model,
            )

    def create_scheduler(self, num_training_steps, optimizer=None):
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        groups = (optimizer or self.optimizer).param_groups  # as this start wants them; a checkpoint brings its own
        self._fresh_groups = [{key: group[key] for key in HYPERPARAMETERS if key in group} for group in groups]
        return scheduler

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        changed = {change["key"] for change in self.changes}
        if checkpoint is None or not any(start.is_listed(key, "optimizer") for key in changed):
            return
        scheduler = self.lr_scheduler
        for i, (group, fresh) in enumerate(zip(self.optimizer.param_groups, self._fresh_groups, strict=True)):
            rate = group["lr"]
            group.update(fresh)
            if hasattr(scheduler, "lr_lambdas"):
                scheduler.base_lrs[i] = fresh["initial_lr"]
                group["lr"] = fresh["initial_lr"] * scheduler.lr_lambdas[i](scheduler.last_epoch)
            elif "trainer.learning_rate" not in changed:  # a schedule that follows a metric has moved the rate itself
                group["lr"] = rate
        scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]  # what is logged

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        policy = self.model if model is None else model
        dtypes = {name: parameter.dtype for name, parameter in policy.named_parameters()}
        if not (self.is_fsdp_enabled or isinstance(policy, PeftModel)):
            # transformers 5.23 saves the key names of the base model's files, which for Qwen2.5-VL are not those of
            # its modules, and would load them without translating them back and without failing: that is, not at all.
            dtype = next(iter(dtypes.values())) if len(set(dtypes.values())) == 1 else torch.float32
            policy.load_state_dict(type(policy).from_pretrained(resume_from_checkpoint, dtype=dtype).state_dict())
            return
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, parameter in policy.named_parameters():
            if parameter.dtype != dtypes[name]:  # peft loads bfloat16 adapters (QLoRA's) as float32
                parameter.data = parameter.data.to(dtypes[name])

    def _get_train_sampler(self, *args, **kwargs):
        self._sampler = super()._get_train_sampler(*args, **kwargs)
        return self._sampler

    def _run_epoch(self, model, epoch, *args, **kwargs):
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # transformers would train one step more
            return
        super()._run_epoch(model, epoch, *args, **kwargs)

    def _finalize_training(self, trial, num_train_samples, start_time):
        return super()._finalize_training(trial, num_train_samples, min(start_time, self._started))

    def _state_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"training_state_{self.args.process_index}.pt"

    def _training_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "loss": self._tr_loss,
            "total_loss": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "initial_step": self._initial_global_step,
            "seconds": time.time() - self._started,
            "metrics": getattr(self, "_metrics", {}),
            "tokens": getattr(self, "_total_train_tokens", 0),
        }
        if hasattr(self, "_buffered_inputs"):
            state["step"] = self._step
            if self._step % (self.args.steps_per_generation * self.num_iterations) != 0:
                state["generated"] = self._buffered_inputs
            if self.args.should_save and self.log_completions:
                # Pictures in the table of a tracker are left out: they are large, and the data set has them.
                state["logs"] = {name: values for name, values in self._logs.items() if name != "images"}
        if getattr(self.args, "sync_ref_model", False):
            state["reference"] = {name: _shard(p) for name, p in self.ref_model.named_parameters()}
        return checkpoints.plain_values(state)

    def _restore(self) -> None:
        """Called when transformers has restored its part and has set its counters to zero."""
        state = torch.load(self._state_file(self._resumed_from), map_location="cpu", weights_only=True)
        self._tr_loss = state["loss"].to(self.args.device)
        self._total_loss_scalar = state["total_loss"]
        self._globalstep_last_logged = state["last_logged"]
        self._initial_global_step = state["initial_step"]
        self._started -= state["seconds"]
        self._total_train_tokens = state.get("tokens", 0)
        for mode, values in state["metrics"].items():
            self._metrics[mode] = defaultdict(list, values)
        if "step" in state:
            self._step = state["step"]
            self._buffered_inputs = send_to_device(state.get("generated"), self.accelerator.device)
        for name, values in state.get("logs", {}).items():
            # TRL's bounded queues, or a mapping of them, are filled in place and keep their bounds.
            for key, items in values.items() if isinstance(values, dict) else [(None, values)]:
                (self._logs[name] if key is None else self._logs[name][key]).extend(items)
        for name, parameter in self.ref_model.named_parameters() if "reference" in state else ():
            _shard(parameter).copy_(state["reference"][name])
        if isinstance(self._sampler, RepeatSampler):
            for _ in range(int(self.state.epoch)):
                next(iter(self._sampler))  # draws the permutation of a finished epoch
        self.state.compute_steps(self.args, self.state.max_steps)  # transformers keeps the checkpoint's save_steps
        for change in self.changes:
            self.state.log_history.append({"changed": start.sentence(change), "step": self.state.global_step})


class _RestoreOnTrainBegin(TrainerCallback):
    def __init__(self, trainer: ExactResume):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._trainer._started = time.time()
        if self._trainer._resumed_from is not None:
            self._trainer._restore()


def _shard(parameter: torch.Tensor) -> torch.Tensor:
    """The part of a parameter that this rank holds, under ZeRO-3, FSDP2 or neither."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.data
    return parameter.to_local().data if hasattr(parameter, "to_local") else parameter.data
