"""Is `sayo preflight` right about memory? Real models, real steps of the trainer, every live tensor counted.

    python -m benchmarks.memory --quick
    python -m benchmarks.memory --out benchmarks/results/preflight_cpu.json --check

Every case runs in a process of its own: Qwen3-VL and Qwen2.5-VL of 9M to 390M random parameters in
`RegionGRPOTrainer`, two steps of generation, two micro-batches and AdamW on toy data. `LiveBytes` counts the bytes of
all live tensor storages, so no allocator blurs the result; what kernels allocate and free inside themselves is not
counted. The target is a peak within 15%.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import TrainerCallback

from benchmarks.harness import collect, finish, make_toy_data, options_of, own_process
from benchmarks.models import SHAPES, write_checkpoint
from sayo.preflight.estimate import estimate
from sayo.preflight.trace import LiveBytes
from sayo.recipes import Recipe, load_recipe

TOLERANCE = 0.15
PIXELS = {"shortest_edge": 192 * 192, "longest_edge": 256 * 256}  # toy pictures are enlarged: 144 visual tokens
_FILE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
OPTIONS: dict[str, list[str]] = _FILE["options"]


def measure_case(case: str) -> dict[str, Any]:
    """`{"case", "parameters", "measured", "predicted", "error"}` of a case: bytes by item and phase.

    The measured peak is that of a GPU's allocator where the case runs on one (`GPU` among its options).
    """
    from sayo.training.run import build_trainer

    family, shape, *names = case.split()
    with tempfile.TemporaryDirectory(prefix="sayo_bench_") as folder:
        write_checkpoint(Path(folder, "policy"), family, SHAPES[shape], PIXELS)
        recipe = toy_recipe(Path(folder), [change for name in names for change in OPTIONS[name]])
        priced = estimate(recipe, gpus=1, sharding="ddp")
        measured = _watch(build_trainer(recipe))
    phases = priced.chosen.phases
    predicted = {phase: sum(items.values()) for phase, items in phases.items() if phase in measured}
    update = phases["update"]
    predicted |= {"weights": update["weights"] + update["reference model"], "optimizer": update["optimizer"]}
    predicted |= {"gradients": update["gradients"], "peak": max(predicted.values())}
    on_gpu = torch.cuda.is_available() and "GPU" in names
    measured["peak"] = torch.cuda.max_memory_allocated() if on_gpu else max(measured.values())
    error, parameters = predicted["peak"] / measured["peak"] - 1, priced.policy.parameters
    return {"case": case, "parameters": parameters, "measured": measured, "predicted": predicted, "error": error}


def toy_recipe(folder: Path, changes: list[str]) -> Recipe:
    """The toy recipe with two micro-batches of four completions, on the policy in `folder`."""
    paths = {"model.name_or_path": folder / "policy", "data.path": make_toy_data(folder, 12)}
    paths["trainer.output_dir"] = folder / "run"
    return load_recipe("toy", [*(f"{key}={path}" for key, path in paths.items()), *_FILE["recipe"], *changes])


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
        self.bytes["gradients"] = bytes_of(p.grad for p in model.parameters() if p.grad is not None)

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
    weights = bytes_of(parameter for model in models for parameter in model.parameters())
    states = (value for state in trainer.optimizer.state.values() for value in state.values())
    moments = bytes_of(value for value in states if torch.is_tensor(value) and value.dim())
    return {**peaks.bytes, "weights": weights, "optimizer": moments}


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the tensors' storages, shared ones once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this, or another case")
    options = parser.parse_args()
    more = [] if options.quick else _FILE["more"] + _FILE["gpu"] * torch.cuda.is_available()
    cases = [case for case in _FILE["quick"] + more if options.only in case] or [options.only]
    measured = (own_process("benchmarks.memory:measure_case", case) for case in cases)
    rows = collect(options, measured, tolerance=TOLERANCE)
    shown = [
        {
            **row,
            **{
                f"{name} MB": f"{row['predicted'][name] / 1e6:.0f} / {value / 1e6:.0f}"
                for name, value in row["measured"].items()
            },
        }
        for row in rows
    ]
    missed = [row["case"] for row in rows if abs(row["error"]) > TOLERANCE]
    finish(options, "Memory in MB: predicted / measured", rows, missed, shown=shown, tolerance=TOLERANCE)


if __name__ == "__main__":
    main()
