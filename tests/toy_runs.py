"""Toy world, policies and prepared data, and small runs on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import yaml

from benchmarks.harness import sayo

datasets.disable_progress_bars()

FAMILIES = ("qwen3_vl", "qwen2_5_vl")


@dataclass(frozen=True)
class Toy:
    """Folders: `world`, and for every family `policy[family]` and `data[family]` (prepared for that policy)."""

    world: Path
    policy: dict[str, Path]
    data: dict[str, Path]


def make_toy(
    folder: Path, families: Sequence[str] = FAMILIES, num_images: int = 10, splits: Sequence[str] = ("train",)
) -> Toy:
    """Pictures of 64 x 64 pixels, their questions, an untrained policy per family, and the data mapped for it.

    Real files, made by the commands that users type.
    """
    world, policy, data = folder / "world", {}, {}
    sayo("toy", "world", "--out", world, "--num-images", num_images)
    for family in families:
        policy[family], data[family] = folder / family, folder / f"data_{family}"
        sayo("toy", "policy", "--family", family, "--out", policy[family])
        for split in splits:
            files = ("--questions", world / f"{split}_questions.json", "--images", world / "images")
            files += ("--scene-graphs", world / f"{split}_sceneGraphs.json", "--split", split)
            sayo("prepare", "gqa", *files, "--processor", policy[family], "--out", data[family])
    return Toy(world, policy, data)


TRAINER: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("toy_trainer.yaml").read_text())


def recipe_values(
    toy: Toy, output_dir: Path, family: str = "qwen3_vl", rewards: dict | None = None, **trainer
) -> dict:
    """Plain values of a recipe with the region attention reward on."""
    rewards = rewards or {
        "attention": {"function": "sayo.rewards.region_attention_reward"},
        "format": {"function": "sayo.rewards.format_reward", "options": {"min_tokens": 2, "max_tokens": 5}},
    }
    return {
        "model": {"name_or_path": str(toy.policy[family]), "dtype": "float32"},
        "data": {"path": str(toy.data[family])},
        "rewards": rewards,
        "trainer": {**TRAINER, "output_dir": str(output_dir), **trainer},
    }


def write_recipe(folder: Path, values: dict) -> Path:
    """`recipe.yaml` in a folder, for a command line."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def length(completions, **kwargs) -> list[float]:
    """A reward function: characters of the completion."""
    return [float(len(completion[0]["content"])) for completion in completions]


class Probe:
    """A reward function that keeps what it is given, and pays for every token that a trace has."""

    __name__ = "probe"

    def __init__(self):
        self.calls, self.traces, self.ids = [], [], []

    def __call__(self, completions, attention, completion_ids, **kwargs):
        self.calls.append({"attention": attention, "completion_ids": completion_ids, **kwargs})
        self.traces += attention
        self.ids += completion_ids
        return [float(len(trace)) for trace in attention]


def rollouts(answers: Sequence[list[int]], **more: Any) -> Callable:
    """A rollout function whose tokens come from no model: the answers in turn; `more` goes into its output."""

    def roll(prompts, trainer):
        ids = trainer.processing_class.apply_chat_template(
            prompts, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]
        chosen = [answers[index % len(answers)] for index in range(len(prompts))]
        return {"prompt_ids": ids, "completion_ids": chosen, "logprobs": None, **more}

    return roll


def rollout(trainer) -> dict[str, Any]:
    """One scored generation batch, split as TRL splits it."""
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return trainer._prepare_inputs(inputs)
