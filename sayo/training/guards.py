"""What stops a run: data of another processor, numbers that are not finite (and what they came from), no memory."""

import functools
import inspect
import json
import math
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sayo.errors import SayoError
from sayo.geometry import VisualLayout
from sayo.recipes import RecipeError, size_words
from sayo.training.checkpoints import plain_values


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

    `data` is the folder that they were read from. A data set without the column (plain TRL data) passes: it has no
    region tokens that could be wrong.
    """
    if dataset is None or "processor_fingerprint" not in (getattr(dataset, "column_names", None) or ()):
        return
    prepared = set(dataset.unique("processor_fingerprint"))
    expected = VisualLayout.from_processor(processor, model_config).fingerprint
    if others := prepared - {expected}:
        model = getattr(model_config, "_name_or_path", "") or "MODEL"
        size = size_words(dict(getattr(processor, "image_processor", processor).size))
        data = data.rstrip("/") if Path(data).is_dir() else "DATA"
        command = ["sayo", "map", data, "--out", f"{data}-mapped", "--processor", model, "--size", size]
        raise RecipeError(
            f"The data's region tokens belong to another processor ({others.pop() or 'none'}) than this model's "
            f"({expected}). Map them, and give the new folder as the data: {shlex.join(command)}"
        )


class GuardedSteps:
    """Mixin in front of a TRL trainer: no optimizer step is taken from a loss or a gradient that is not finite.

    What went into the step is written to `output_dir/broken_batch/`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._since_step: list[Any] = []  # micro-batches of the step being made; references, not copies
        self._guarded_engine: Any = None

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        result = super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        if model.training:
            self._since_step.append(inputs)
            self._guard_engine()
            self._require_finite("loss", result[0] if return_outputs else result)
        return result

    def _get_grad_norm(self, *args, **kwargs):
        norm = super()._get_grad_norm(*args, **kwargs)
        if norm is not None:
            self._require_finite("gradient norm", norm)
        self._since_step.clear()
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

    def _require_finite(self, what: str, value: Any) -> None:
        number = value.item() if isinstance(value, torch.Tensor) else float(value)
        if math.isfinite(number):
            return
        path = save_batch(
            self, [self._texts(x) for x in self._since_step], plain_values([dict(x) for x in self._since_step])
        )
        raise NonFiniteError(
            f"The {what} of step {self.state.global_step + 1} is {number}; no step was taken. What went into it is in "
            f"{path.parent}. Common causes: a learning rate too high, a reward without bounds, float16 weights. "
            "The last checkpoint is good: lower trainer.learning_rate and start the same command again."
        )

    def _texts(self, batch: dict[str, Any]) -> dict[str, Any]:
        decode = functools.partial(self.processing_class.batch_decode, skip_special_tokens=True)
        texts = {
            key: decode(batch[f"{key}_ids"]) for key in ("prompt", "completion", "input") if f"{key}_ids" in batch
        }
        return texts | ({"advantages": batch["advantages"].tolist()} if "advantages" in batch else {})


def require_finite_rewards(functions: Any) -> Any:
    """Make every plain reward function stop the run when it returns NaN or an infinity (None is fine).

    TRL takes NaN for "not applicable" and would continue without a word.
    """
    many = functions if isinstance(functions, list) else [functions]
    # TRL also takes names of models, models and coroutine functions; those are left to it.
    return [f if isinstance(f, (str, nn.Module)) or inspect.iscoroutinefunction(f) else _finite(f) for f in many]


def _finite(function: Callable) -> Callable:
    @functools.wraps(function)
    def checked(*args, **kwargs):
        rewards = function(*args, **kwargs)
        bad = [i for i, reward in enumerate(rewards) if reward is not None and not math.isfinite(reward)]
        if bad:
            raise NonFiniteError(
                f"The reward function {function.__name__!r} returned {rewards[bad[0]]} for completion {bad[0]}"
                f"{f' and {len(bad) - 1} more' if len(bad) > 1 else ''}. Return None where it does not apply."
            )
        return rewards

    return checked


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
