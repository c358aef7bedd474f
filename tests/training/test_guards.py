"""What stops a run, what warns about it, and what is left behind."""

import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from datasets import Dataset, IterableDataset
from toy_runs import length, recipe_values, write_recipe
from transformers import Qwen2_5_VLConfig, Qwen2VLImageProcessor

from sayo.geometry import VisualLayout
from sayo.recipes import RecipeError
from sayo.rewards import format_reward
from sayo.training.callbacks import WINDOW, WarnWhenFading, fading
from sayo.training.guards import NonFiniteError, OutOfMemory, check_dataset, out_of_memory_named


def test_reward(make_trainer):
    def broken_reward(completions, **kwargs):
        return [1.0, None, math.nan, 0.0]

    trainer = make_trainer(broken_reward)
    with pytest.raises(NonFiniteError, match="'broken_reward' returned nan for completion 2"):
        trainer.train()
    (file,) = Path(trainer.args.output_dir, "broken_batch").glob("*.json")
    saved = json.loads(file.read_text())
    assert len(saved["completions"]) == 4 and saved["samples"][0]["question"]


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_loss_and_gradient(make_trainer, what):
    """Step 1 is fine, step 2 breaks: no weight may have moved since step 1."""
    trainer = make_trainer(length, max_steps=3)
    after_first = {}

    def break_second(completions, trainer_state, **kwargs):
        if trainer_state.global_step == 1:
            after_first.update({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
            if what == "loss":
                norm = trainer.model.model.language_model.norm
                norm.register_forward_hook(lambda module, args, output: output * math.nan)
            else:
                parameter = next(iter(trainer.model.parameters()))
                parameter.register_hook(lambda gradient: gradient * math.inf)
        return length(completions)

    trainer.reward_funcs = [break_second]
    module = "output .* is that of 'model.language_model.norm'"
    named = module if what == "loss" else "1 of .* gradients .* 'model.visual"
    with pytest.raises(NonFiniteError, match=f"The {what} of step 2 is (nan|inf); no step was taken. .*{named}"):
        trainer.train()
    assert all(torch.equal(after_first[name], p) for name, p in trainer.model.named_parameters())
    folder = Path(trainer.args.output_dir, "broken_batch")
    (batch,) = torch.load(folder / "step_00002_rank_0.pt", weights_only=True)
    assert batch["completion_ids"].shape[0] == 4
    (texts,) = json.loads((folder / "step_00002_rank_0.json").read_text())
    assert len(texts["completion"]) == len(texts["advantages"]) == 4


def allocate_too_much(completions, **kwargs):
    torch.empty(2**62, dtype=torch.uint8)


def test_out_of_memory_ends_with_advice(toys, tmp_path, sayo_command, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    rewards = {"greedy": {"function": "test_guards.allocate_too_much"}}
    recipe = write_recipe(tmp_path, recipe_values(toys, tmp_path / "run", rewards=rewards))
    done = sayo_command("train", "--config-name", recipe)
    assert done.exit_code == 1 and "error: Out of memory: " in done.stderr
    assert "Change, in this order" in done.stderr and "  1. trainer.gradient_checkpointing=true" in done.stderr


def test_other_errors_are_not_out_of_memory():
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_named(1, "none"):
        torch.ones(2) @ torch.ones(3, 3)
    with pytest.raises(OutOfMemory) as caught, out_of_memory_named(2, "ZeRO-2"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    assert (caught.value.num_processes, caught.value.sharding) == (2, "ZeRO-2")


@pytest.mark.parametrize("kind", ["rows", "dict of data sets", "stream", "stream without columns"])
def test_data_of_another_processor(kind):
    """Whatever the trainer takes as a data set; the model's own data pass."""
    processor, config = Qwen2VLImageProcessor(), Qwen2_5_VLConfig()
    own = VisualLayout.from_processor(processor, config).fingerprint
    for fingerprint in (own, own.replace("14", "28")):
        rows = [{"processor_fingerprint": fingerprint}] * 2
        data = {
            "rows": Dataset.from_list(rows),
            "dict of data sets": {"fine": Dataset.from_list([{"prompt": "x"}]), "other": Dataset.from_list(rows)},
            "stream": Dataset.from_list(rows).to_iterable_dataset(),
            "stream without columns": IterableDataset.from_generator(lambda rows=rows: iter(rows)),
        }[kind]
        expected = nullcontext() if fingerprint == own else pytest.raises(RecipeError, match="belong to another")
        with expected:
            check_dataset(data, processor, config)


FINE = {
    "reward": 0.5,
    "reward_std": 0.1,
    "frac_reward_zero_std": 0.2,
    "completions/clipped_ratio": 0.1,
    "attention/coverage": 0.9,
}


@pytest.mark.parametrize(
    ("metric", "value"),
    [("reward", 0.1), ("frac_reward_zero_std", 0.9), ("completions/clipped_ratio", 0.6), ("attention/coverage", 0.0)],
)
def test_warnings(metric, value):
    healthy = [FINE] * (2 * WINDOW)
    assert fading(healthy) == {}
    assert fading([*healthy, {**FINE, metric: value}]) == {}, "one bad line is no reason to warn"
    messages = fading(healthy + [{**FINE, metric: value}] * WINDOW)
    assert list(messages) == [metric] and messages[metric].startswith(metric)


def test_warnings_reach_the_console(make_trainer, capsys):
    trainer = make_trainer(format_reward, max_steps=WINDOW + 2, max_completion_length=2)
    trainer.add_callback(WarnWhenFading())
    trainer.train()
    assert capsys.readouterr().err.count("completions/clipped_ratio is") == 1
