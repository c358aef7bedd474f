"""One arm of the toy bench, trained and judged in a process of its own.

An arm is a recipe with overrides, started from one of `STARTS` (`toy_arms.yaml`); nothing is trained by other code
than `sayo train`, nor judged by other code than `sayo evaluate --data`.
"""

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

QUANTITIES = ("accuracy", "tas", "vas", "region_score", "region_ratio", "image_mass", "mean_length")
CURVES = ("rewards/accuracy/mean", "attention/tas", "attention/region_ratio")
"""Metrics of every training step that are kept, where a run logs them."""


@dataclass(frozen=True)
class Start:
    """See `toy_arms.yaml`."""

    recipe: str
    base: str
    overrides: tuple[str, ...] = ()
    look_back: bool = False


@dataclass(frozen=True)
class Arm:
    """See `toy_arms.yaml`."""

    label: str
    overrides: tuple[str, ...] | None = None
    start: str = "cold_start"
    recipe: str = "toy"
    steering: dict[str, Any] | None = None


_FILE = yaml.safe_load(Path(__file__).with_name("toy_arms.yaml").read_text())
STARTS = {name: Start(**entry) for name, entry in _FILE["starts"].items()}
STEERING = {name: Arm(**entry) for name, entry in _FILE["steering"].items()}
ARMS = {name: Arm(**entry) for name, entry in _FILE["arms"].items()} | STEERING


@dataclass(frozen=True)
class Settings:
    """What all arms share.

    Attributes:
        root: folder of `make demo`, with `policy`, `cold_start.parquet`, `prepared` and maybe `cold_start`.
        runs: folder of the runs.
        steps: GRPO steps; the recipe's own if None.
        questions, samples: held-out questions, and answers sampled for each.
    """

    root: str
    runs: str
    steps: int | None
    questions: int
    samples: int


def start_dir(name: str, settings: Settings) -> Path:
    """Where a start lies: in the demo's folder if it is there, else among the runs (see `make_start`)."""
    demo = Path(settings.root, name)
    return demo if (demo / "config.json").is_file() else Path(settings.runs, "starts", name)


def arm_dir(name: str, seed: int, settings: Settings) -> Path:
    return Path(settings.runs, f"{name.replace(' ', '_')}_{seed}")


def make_start(name: str, settings: Settings) -> None:
    """Train a start unless it is there; everything that is printed goes to `log.txt` beside it."""
    folder = start_dir(name, settings)
    if (folder / "config.json").is_file():
        return
    start, data = STARTS[name], Path(settings.root, "cold_start.parquet")
    base = Path(settings.root, "policy") if start.base == "policy" else start_dir(start.base, settings)
    _log_to(folder / "log.txt")
    if start.look_back:
        from sayo.toyworld.cold_start import write_cold_start

        data = folder / "data.parquet"
        write_cold_start(Path(settings.root, "world"), data, num_rows=16000, warm_up=0, look_back=True)
    _train(start.recipe, start.overrides, base, data, folder, seed=0)


def run_arm(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """The result of one arm and seed: stored if measured with these very settings, else new."""
    folder, fingerprint = arm_dir(name, seed, settings), _fingerprint(name, seed, settings)
    stored = folder / "result.json"
    if stored.is_file() and (result := json.loads(stored.read_text()))["fingerprint"] == fingerprint:
        return result
    shutil.rmtree(folder, ignore_errors=True)  # of other settings, or killed: an arm is run as a whole
    _log_to(folder / "log.txt")
    result = {"arm": name, "seed": seed, "fingerprint": fingerprint, **_measure(name, seed, settings, folder)}
    stored.with_suffix(".part").write_text(json.dumps(result, indent=2) + "\n")
    os.replace(stored.with_suffix(".part"), stored)
    return result


def _measure(name: str, seed: int, settings: Settings, folder: Path) -> dict[str, Any]:
    from sayo.recipes import load_recipe

    arm, recipe = ARMS[name], load_recipe(ARMS[name].recipe, ARMS[name].overrides or ())
    policy_dir, costs = _start_of(arm, seed, settings), {}
    if arm.overrides is not None:
        steps = settings.steps or recipe.trainer["max_steps"]
        overrides = (*arm.overrides, f"trainer.max_steps={steps}", "trainer.save_strategy=no")
        started = time.process_time()
        with counted_passes(policy_dir) as count:
            _train(arm.recipe, overrides, policy_dir, Path(settings.root, "prepared"), folder, seed)
        seconds = (time.process_time() - started) / steps
        policy_dir = folder
        costs = {"passes_per_step": count["passes"] / steps, "cpu_seconds_per_step": seconds, "curve": _curve(folder)}
    started = time.process_time()
    summary = _evaluate(arm, policy_dir, recipe.trainer, settings, seed, folder)
    return {**summary, **costs, "evaluate_cpu_seconds": time.process_time() - started}


def _start_of(arm: Arm, seed: int, settings: Settings) -> Path:
    return arm_dir(arm.start, seed, settings) if arm.start in ARMS else start_dir(arm.start, settings)


def _train(recipe: str, overrides: tuple[str, ...], model: Path, data: Path, folder: Path, seed: int) -> None:
    import torch

    from sayo.recipes import load_recipe
    from sayo.training.run import train

    torch.set_num_threads(1)
    where = (f"model.name_or_path={model}", f"data.path={data}", f"trainer.output_dir={folder}")
    train(load_recipe(recipe, [*overrides, *where, f"trainer.seed={seed}", "trainer.disable_tqdm=true"]))


def _evaluate(
    arm: Arm, policy_dir: Path, trainer: dict[str, Any], settings: Settings, seed: int, folder: Path
) -> dict[str, Any]:
    import torch

    from sayo.evaluation.evaluate import evaluate
    from sayo.evaluation.local import LocalModel
    from sayo.recipes import DataSection
    from sayo.training.setup import load_data

    torch.set_num_threads(1)
    reading = {"max_new_tokens": trainer["max_completion_length"], "layers": trainer["attention_layers"], "seed": seed}
    answerer = LocalModel.from_pretrained(str(policy_dir), num_samples=settings.samples, temperature=1.0, **reading)
    rows = load_data(DataSection(path=f"{settings.root}/prepared", max_samples=settings.questions), "test")
    with _steering(arm, answerer.model, answerer.processor):
        summary = evaluate(answerer, rows, folder / "evaluation" / "after", overwrite=True)
    by_type = {kind: values["accuracy"] for kind, values in summary["by_type"].items()}
    return {**{name: summary[name] for name in QUANTITIES}, "accuracy_by_type": by_type}


def _steering(arm: Arm, policy: Any, processor: Any) -> AbstractContextManager:
    from sayo.steering import AttentionSteering, ScoreScaling

    for name, options in (arm.steering or {}).items():
        if name == "ScoreScaling":
            return ScoreScaling(policy, **options)
        return AttentionSteering(policy, processor, **options)
    return nullcontext()


def _curve(folder: Path) -> dict[str, list[float]]:
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {name: [line[name] for line in log if name in line] for name in CURVES if any(name in line for line in log)}


@contextmanager
def counted_passes(policy_dir: Path) -> Iterator[dict[str, int]]:
    """Count the policy's forward passes over more than one position: prefills, scoring, losses; no decoding steps."""
    import transformers

    # The headless class: TRL's loss may compute its logits in chunks, past the forward of the whole model.
    config = transformers.AutoConfig.from_pretrained(policy_dir)
    policy_class, count = type(transformers.AutoModel.from_config(config)), {"passes": 0}
    forward = policy_class.forward

    @functools.wraps(forward)
    def counting(self, *args, **kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        count["passes"] += ids is None or ids.shape[1] > 1
        return forward(self, *args, **kwargs)

    policy_class.forward = counting
    try:
        yield count
    finally:
        policy_class.forward = forward


def _fingerprint(name: str, seed: int, settings: Settings) -> str:
    """Of everything that a result depends on, the weights that it starts from included, the code not."""
    from sayo.recipes import load_recipe

    arm = ARMS[name]
    weights = (_start_of(arm, seed, settings) / "model.safetensors").read_bytes()
    recipe = load_recipe(arm.recipe, arm.overrides or ()).model_dump(mode="json")
    content = json.dumps([name, seed, vars(settings) | {"root": "", "runs": ""}, arm.steering, recipe], sort_keys=True)
    return hashlib.sha256(content.encode() + hashlib.sha256(weights).digest()).hexdigest()[:16]


def _log_to(path: Path) -> None:
    """Send all that this worker process prints to a file: libraries and compilers print past Python's own streams."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
