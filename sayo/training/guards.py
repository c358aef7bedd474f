"""What stops a run: data of another processor, numbers that are not finite (and what they came from), no memory."""

import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from datasets import IterableDataset
from transformers import TrainerCallback

from sayo.errors import SayoError
from sayo.geometry import VisualLayout
from sayo.recipes import RecipeError, size_words
from sayo.training.checkpoints import plain_values
from sayo.training.finite import all_finite, first_not_finite


class NonFiniteError(SayoError, FloatingPointError):
    """A reward, loss or gradient norm is NaN or infinite; the step was not taken and the batch was saved."""

    exit_status = 1


class OutOfMemory(SayoError, RuntimeError):
    """The run did not fit; `num_processes` and `sharding` of its launch are for advice."""

    exit_status = 1

    def __init__(self, message: str, num_processes: int, sharding: str):
        super().__init__(message)
        self.num_processes, self.sharding = num_processes, sharding


@contextmanager
def out_of_memory_named(num_processes: int, sharding: str) -> Iterator[None]:
    """Raise `OutOfMemory` in place of the several errors of torch and Python."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's CPU allocator raises a plain RuntimeError
        message = str(error).lower()
        if not (isinstance(error, MemoryError) or "can't allocate memory" in message or "out of memory" in message):
            raise
        first = str(error).partition("\n")[0]
        raise OutOfMemory(f"Out of memory: {first}", num_processes, sharding) from error


def check_dataset(dataset: Any, processor: Any, model_config: Any, data: str = "DATA") -> None:
    """RecipeError for data whose region tokens were computed for another processor, with the command that maps them.

    `data` is the folder that they were read from. Of data sets by name each is checked, of a stream the first row. A
    data set without the column (plain TRL data) passes: it has no region tokens that could be wrong.
    """
    if isinstance(dataset, Mapping):
        for one in dataset.values():
            check_dataset(one, processor, model_config, data)
        return
    column = "processor_fingerprint"
    if isinstance(dataset, IterableDataset):  # it need not know its columns
        prepared = {row[column] for row in dataset.take(1) if column in row}
    else:
        known = column in (getattr(dataset, "column_names", None) or ())
        prepared = set(dataset.unique(column)) if known else set()
    if not prepared:
        return
    expected = VisualLayout.from_processor(processor, model_config).fingerprint
    if others := prepared - {expected}:
        model = getattr(model_config, "_name_or_path", "") or "MODEL"
        size = size_words(dict(getattr(processor, "image_processor", processor).size or {}))
        data = data.rstrip("/") if Path(data).is_dir() else "DATA"
        command = ["sayo", "map", data, "--out", f"{data}-mapped", "--processor", model]
        command += ["--size", size] if size else []
        raise RecipeError(
            f"The data's region tokens belong to another processor ({others.pop() or 'none'}) than this model's "
            f"({expected}). Map them, and give the new folder as the data: {shlex.join(command)}"
        )


def check_enough_rows(count: int, args: Any) -> None:
    """RecipeError where `count` rows do not fill one batch, so that no step would be taken and nothing said."""
    group = getattr(args, "num_generations", None)
    if group is not None:
        needed, steps = args.generation_batch_size // group, args.steps_per_generation
        terms = f"x {args.world_size} processes x steps_per_generation {steps} / num_generations {group}"
        change = "steps_per_generation (or trainer.gradient_accumulation_steps), or raise trainer.num_generations"
    else:
        needed = args.per_device_train_batch_size * args.world_size if args.dataloader_drop_last else 1
        terms, change = f"x {args.world_size} processes", "dataloader_drop_last"
    if count < needed:
        raise RecipeError(
            f"{count} prompts are too few: one batch takes {needed} (per_device_train_batch_size "
            f"{args.per_device_train_batch_size} {terms}), so that no step would be taken. Give more rows (data.path, "
            f"data.max_samples), or lower trainer.per_device_train_batch_size or trainer.{change}."
        )


class GuardedSteps:
    """Mixin in front of a TRL trainer: no optimizer step is taken from a loss or a gradient that is not finite.

    What went into the step is written to `output_dir/broken_batch/`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._since_step: list[Any] = []  # micro-batches of the step being made; references, not copies
        self._guarded_engine: Any = None
        self.add_callback(_FiniteWeights(self))

    def train(self, *args, **kwargs):
        if hasattr(self.train_dataset, "__len__"):
            check_enough_rows(len(self.train_dataset), self.args)
        return super().train(*args, **kwargs)

    def _prepare_inputs(self, inputs):
        prepare = super()._prepare_inputs
        try:
            return prepare(inputs)
        except RuntimeError as error:  # torch's multinomial, on a CPU; a GPU's has no message
            if "probability tensor" not in str(error):
                raise
            self._since_step.append(inputs)
            what = f"The policy's probabilities in step {self._making} are not finite: it cannot be sampled from."
            self._stop(what, partial(prepare, inputs))

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        compute = partial(super().compute_loss, model, inputs, return_outputs, **kwargs)
        result = compute()
        if model.training:
            self._since_step.append(inputs)
            self._guard_engine()
            self._require_finite("loss", result[0] if return_outputs else result, compute)
        return result

    def _get_grad_norm(self, *args, **kwargs):
        norm = super()._get_grad_norm(*args, **kwargs)
        if norm is not None and self.accelerator.scaler is None:  # float16's scaler skips such a step itself
            self._require_finite("gradient norm", norm)
        return norm

    def _guard_engine(self) -> None:
        """ZeRO-3 steps inside `backward` whatever its gradients are; other stages skip a broken step themselves."""
        engine = self.model_wrapped
        if engine is self._guarded_engine or getattr(engine, "zero_optimization_stage", int)() != 3:
            return
        self._guarded_engine, step = engine, engine.step

        def checked_step(*args, **kwargs):
            if engine.is_gradient_accumulation_boundary() and engine.optimizer.has_overflow():
                self._require_finite("gradient", math.inf)
            return step(*args, **kwargs)

        engine.step = checked_step

    def _require_finite(self, what: str, value: Any, forward: Callable | None = None) -> None:
        number = value.item() if isinstance(value, torch.Tensor) else float(value)
        if not math.isfinite(number):
            self._stop(f"The {what} of step {self._making} is {number}; no step was taken.", forward)

    @property
    def _making(self) -> int:
        return self.state.global_step + 1

    def _stop(self, what: str, forward: Callable | None = None) -> NoReturn:
        """Save the batch, find the tensor that it began with, and raise `NonFiniteError`.

        `forward` may be run once more to find a module; on one process only, for the others would not take part.
        """
        values = [plain_values(dict(x)) if isinstance(x, Mapping) else None for x in self._since_step]
        path = save_batch(self, [self._texts(x) for x in self._since_step], values)
        cause = first_not_finite(self.model, forward if self.args.world_size == 1 else None)
        raise NonFiniteError(
            f"{what} {cause}What went into it is in {path.parent}. Common causes: a learning rate too high, a reward "
            "without bounds, float16 weights. The last checkpoint is good: lower trainer.learning_rate and start the "
            "same command again."
        )

    def _texts(self, batch: Any) -> Any:
        if not isinstance(batch, Mapping):
            return batch  # rows of the data set
        decode = partial(self.processing_class.batch_decode, skip_special_tokens=True)
        texts = {
            key: decode(batch[f"{key}_ids"]) for key in ("prompt", "completion", "input") if f"{key}_ids" in batch
        }
        return texts | ({"advantages": batch["advantages"].tolist()} if "advantages" in batch else {})


class _FiniteWeights(TrainerCallback):
    """No run starts from weights that are not finite, and none saves them for the next start to resume from."""

    def __init__(self, trainer: GuardedSteps):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._check("The policy's weights are not finite at the start.")

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._check(f"Weights are not finite after the optimizer's step {state.global_step + 1}, which is not saved.")
        self._trainer._since_step.clear()

    def _check(self, what: str) -> None:
        if not all_finite(self._trainer.model.parameters()):
            self._trainer._stop(what)


def save_batch(trainer: Any, text: Any, batch: Any = None) -> Path:
    """Write what broke a step to `output_dir/broken_batch/`: readable text, and tensors where there are any.

    `text` may be anything; `batch` is tensors and plain values only (`torch.load(weights_only=True)` reads it).
    """
    folder = Path(trainer.args.output_dir, "broken_batch")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{trainer.state.global_step + 1:05d}_rank_{trainer.args.process_index}.json"
    path.write_text(json.dumps(text, indent=1, ensure_ascii=False, default=str))
    if batch is not None:
        torch.save(batch, path.with_suffix(".pt"))
    return path
