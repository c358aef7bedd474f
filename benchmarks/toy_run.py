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
from unittest import mock

import yaml

from data_prep.texts import write_whole

QUANTITIES = ("accuracy", "tas", "vas", "region_score", "region_ratio", "image_mass", "mean_length")
CURVES = ("rewards/accuracy/mean", "attention/tas", "attention/region_ratio")
"""Metrics of every training step that are kept, where a run logs them."""


@dataclass(frozen=True)
class Arm:
    """An arm or a start: see `toy_arms.yaml`."""

    label: str = ""
    overrides: tuple[str, ...] | None = None
    start: str = "cold_start"
    recipe: str = "toy"
    steering: dict[str, Any] | None = None
    look_back: bool = False
    data: str = "prepared"


_FILE = yaml.safe_load(Path(__file__).with_name("toy_arms.yaml").read_text())
STARTS = {name: Arm(**entry) for name, entry in _FILE["starts"].items()}
STEERING = {name: Arm(**entry) for name, entry in _FILE["steering"].items()}
CONTROLS = {name: Arm(**entry) for name, entry in _FILE["controls"].items()}
ARMS = {name: Arm(**entry) for name, entry in _FILE["arms"].items()} | STEERING | CONTROLS


@dataclass(frozen=True)
class Settings:
    """What all arms share.

    Attributes:
        root: folder of `make demo`, with `policy`, `cold_start.parquet`, `prepared` and maybe `cold_start`.
        runs: folder of the runs.
        steps: GRPO steps; the recipe's own if None.
        questions, samples: held-out questions, and answers sampled for each.
        also: another split that is judged beside `test`: its accuracy is `accuracy_<split>`.
    """

    root: Path
    runs: Path
    steps: int | None
    questions: int
    samples: int
    also: str | None = None


def lineage(name: str) -> list[str]:
    """What an arm or start is trained from, and what that is trained from, ending with the untrained "policy"."""
    arm = (STARTS | ARMS).get(name)
    return [arm.start, *lineage(arm.start)] if arm else []


def folder_of(name: str, seed: int, settings: Settings) -> Path:
    """Where a policy lies: a start in the demo's folder if it is there, else among the runs, as arms are."""
    if name in ARMS:
        return settings.runs / f"{name.replace(' ', '_')}_{seed}"
    demo = settings.root / name
    return demo if (demo / "config.json").is_file() else settings.runs / "starts" / name


def run(name: str, seed: int, settings: Settings) -> dict[str, Any] | None:
    """The result of an arm and seed; a start is only made. All that is printed goes to `log.txt` beside the policy."""
    return _run_arm(name, seed, settings) if name in ARMS else _make_start(name, settings)


def _make_start(name: str, settings: Settings) -> None:
    folder, start, data = folder_of(name, 0, settings), STARTS[name], settings.root / "cold_start.parquet"
    if (folder / "config.json").is_file():
        return
    _begin(folder)
    if start.look_back:
        from sayo.toyworld.cold_start import write_cold_start

        data = folder / "data.parquet"
        write_cold_start(settings.root / "world", data, num_rows=16000, warm_up=0, look_back=True)
    _train(start, folder_of(start.start, 0, settings), data, folder, seed=0)


def _run_arm(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Stored if measured with these very settings, else new."""
    folder, fingerprint = folder_of(name, seed, settings), _fingerprint(name, seed, settings)
    stored = folder / "result.json"
    if stored.is_file() and (result := json.loads(stored.read_text()))["fingerprint"] == fingerprint:
        return result
    shutil.rmtree(folder, ignore_errors=True)  # of other settings, or killed: an arm is run as a whole
    _begin(folder)
    result = {"arm": name, "seed": seed, "fingerprint": fingerprint, **_measure(name, seed, settings, folder)}
    write_whole(stored, json.dumps(result, indent=2) + "\n")
    return result


def _begin(folder: Path) -> None:
    """All that this worker prints goes to a file, what libraries print past Python's streams too; one thread."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import torch

    torch.set_num_threads(1)


def _measure(name: str, seed: int, settings: Settings, folder: Path) -> dict[str, Any]:
    from sayo.recipes import load_recipe

    arm, costs = ARMS[name], {}
    recipe = load_recipe(arm.recipe, arm.overrides or ())
    policy_dir = folder_of(arm.start, seed, settings)
    if arm.overrides is not None:
        steps = settings.steps or recipe.trainer["max_steps"]
        started = time.process_time()
        with counted_passes(policy_dir) as count:
            limits = (f"trainer.max_steps={steps}", "trainer.save_strategy=no")
            _train(arm, policy_dir, settings.root / arm.data, folder, seed, *limits)
        seconds = (time.process_time() - started) / steps
        policy_dir = folder
        costs = {"passes_per_step": count["passes"] / steps, "cpu_seconds_per_step": seconds, "curve": _curve(folder)}
    started = time.process_time()
    summary = _evaluate(arm, policy_dir, recipe.trainer, settings, seed, folder)
    return {**summary, **costs, "evaluate_cpu_seconds": time.process_time() - started}


def _train(arm: Arm, model: Path, data: Path, folder: Path, seed: int, *more: str) -> None:
    from sayo.recipes import load_recipe
    from sayo.training.run import train

    where = (f"model.name_or_path={model}", f"data.path={data}", f"trainer.output_dir={folder}")
    run = (f"trainer.seed={seed}", "trainer.disable_tqdm=true")
    train(load_recipe(arm.recipe, [*(arm.overrides or ()), *more, *where, *run]))


def _evaluate(
    arm: Arm, policy_dir: Path, trainer: dict[str, Any], settings: Settings, seed: int, folder: Path
) -> dict[str, Any]:
    from sayo.evaluation.evaluate import evaluate
    from sayo.evaluation.local import LocalModel
    from sayo.recipes import DataSection, model_section
    from sayo.training.setup import load_data

    reading = {"max_new_tokens": trainer["max_completion_length"], "layers": trainer["attention_layers"], "seed": seed}
    reading |= {"num_samples": settings.samples, "temperature": 1.0}
    answerer = LocalModel.from_pretrained(model_section(str(policy_dir)), **reading)
    section, summaries = DataSection(path=f"{settings.root}/prepared", max_samples=settings.questions), {}
    for split, name in {settings.also: settings.also, "test": "after"}.items():
        if split:
            with _steering(arm, answerer.model, answerer.processor):
                rows = load_data(section, split)
                summaries[split] = evaluate(answerer, rows, folder / "evaluation" / name, overwrite=True)
    summary = summaries.pop("test")
    by_type = {kind: values["accuracy"] for kind, values in summary["by_type"].items()}
    also = {f"accuracy_{split}": other["accuracy"] for split, other in summaries.items()}
    return {**{name: summary[name] for name in QUANTITIES}, **also, "accuracy_by_type": by_type}


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

    with mock.patch.object(policy_class, "forward", counting):
        yield count


def _fingerprint(name: str, seed: int, settings: Settings) -> str:
    """Of everything that a result depends on, the weights that it starts from included, the code not."""
    from sayo.recipes import load_recipe

    arm = ARMS[name]
    weights = (folder_of(arm.start, seed, settings) / "model.safetensors").read_bytes()
    recipe = load_recipe(arm.recipe, arm.overrides or ()).model_dump(mode="json")
    content = json.dumps([name, seed, vars(settings) | {"root": "", "runs": ""}, arm.steering, recipe], sort_keys=True)
    return hashlib.sha256(content.encode() + hashlib.sha256(weights).digest()).hexdigest()[:16]
