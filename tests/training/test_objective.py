"""Attention as an objective: what it does to the policy, that it costs nothing where it is off, worked numbers."""

import math
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig
from toy_runs import rollout
from trl import GRPOTrainer

from sayo.recipes import RecipeError
from sayo.rewards import region_attention_reward
from sayo.training.config import AnchoredSFTConfig, RegionGRPOConfig
from sayo.training.objective import mean_log_attention, region_divergence, region_objective, weighted_rows

ONE = {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}


def constant(completions, **kwargs):
    """No advantage at all: only the objective moves the policy."""
    return [1.0] * len(completions)


def with_regions(rows):
    return rows.filter(lambda row: row["has_region"])


def loss_of(trainer, inputs):
    with ExitStack() as trainer._captures:
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
    return loss.item(), {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("rows", "form"), [("of_token", "score"), ("deciding", "score"), ("deciding", "divergence")])
@pytest.mark.parametrize("tuning", ["full", "lora", "checkpointing"])
def test_one_step_lowers_the_objective(make_trainer, rows, form, tuning):
    """Nothing but the objective has a gradient, and one step of it lowers the loss of the same rollouts."""
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    trainer = make_trainer(
        constant,
        edit=with_regions,
        peft_config=lora if tuning == "lora" else None,
        objective_weight=1.0,
        objective_rows=rows,
        objective_form=form,
        gradient_checkpointing=tuning == "checkpointing",
        gradient_checkpointing_kwargs={"use_reentrant": False},
        **ONE,
    )
    inputs = rollout(trainer)
    assert not inputs["advantages"].any()
    before, gradients = loss_of(trainer, inputs)
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    assert gradients and all(("lora_" in name) == (tuning == "lora") for name in gradients)
    torch.optim.SGD(trainable, lr=0.01).step()
    assert loss_of(trainer, inputs)[0] < before - 1e-4
    logged = trainer._metrics["train"]["objective/region" if form == "score" else "objective/divergence"][0]
    assert logged == pytest.approx(-before if form == "score" else before, abs=1e-6)


def test_divergence_worked_numbers():
    """Three visual tokens and a padded one, the region is the first: target (.9 + .1 / 3, .1 / 3, .1 / 3)."""
    target, image = torch.tensor([[2.0, 0, 0, 0]]), torch.tensor([[1.0, 1, 1, 0]])
    smoothed = torch.tensor([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])

    def divergence(*rows, weights=(1.0,)):
        return region_divergence(torch.tensor([rows]), target, image, torch.tensor([weights])).item()

    assert divergence([*(0.4 * smoothed).tolist(), 0.5]) == pytest.approx(0, abs=1e-6)
    even = math.log(3) + (smoothed * smoothed.log()).sum().item()
    assert divergence([0.1, 0.1, 0.1, 0.7]) == pytest.approx(even, abs=1e-6)
    rows = ([0.2, 0.0, 0.1, 0.0], [0.0, 0.2, 0.1, 0.0])  # pooled they are even; the mean of their own would be more
    assert divergence(*rows, weights=(0.5, 0.5)) == pytest.approx(even, abs=1e-6)
    assert divergence([0.1, 0.1, 0.1, 0.7], weights=(0.0,)) == 0


def test_gate_trains_right_answers_only(make_trainer):
    def accuracy(completions, **kwargs):
        return [1.0, 0.0, 1.0, 0.0][: len(completions)]

    trainer = make_trainer(accuracy, edit=with_regions, objective_weight=1.0, objective_gate="correct", **ONE)
    inputs = rollout(trainer)  # shuffled: the right ones are those with an advantage
    trained = inputs["objective_row_weights"].sum(dim=1) > 0
    assert trained.sum() == 2 and torch.equal(trained, inputs["advantages"] > 0)
    with pytest.raises(RecipeError, match="named 'accuracy'"):
        make_trainer(constant, objective_weight=1.0, objective_gate="correct", **ONE)


def test_objective_is_the_reward(make_trainer):
    """At the first step the policy is the one that sampled: the score that is descended is the one that is paid."""
    trainer = make_trainer(region_attention_reward, objective_weight=0.1, **ONE)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["objective/region"] == pytest.approx(log["rewards/region_attention_reward/mean"], abs=1e-5)


def test_warmup_accumulation_and_iterations(make_trainer):
    """The weight is a function of the step; rollouts that are shuffled, split and used twice keep their rows."""
    trainer = make_trainer(
        region_attention_reward,
        objective_weight=0.4,
        objective_warmup_steps=4,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_iterations=2,
        max_steps=5,
    )
    trainer.train()
    log = [line for line in trainer.state.log_history if "objective/weight" in line]
    assert [line["objective/weight"] for line in log] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert all("objective/region" in line for line in log)


def test_accumulation_and_checkpointing_change_no_gradient(make_trainer):
    trainer = make_trainer(constant, edit=with_regions, objective_weight=1.0, **ONE)
    inputs = rollout(trainer)

    def assert_same(gradients):
        for name, gradient in whole.items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4)

    whole = {name: gradient.clone() for name, gradient in loss_of(trainer, inputs)[1].items()}
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 2
    rows_of_image = inputs["pixel_values"].shape[0] // 4
    for half in (slice(0, 2), slice(2, 4)):
        part = {key: value[half] if getattr(value, "ndim", 1) else value for key, value in inputs.items()}
        part["pixel_values"] = inputs["pixel_values"][half.start * rows_of_image : half.stop * rows_of_image]
        _, accumulated = loss_of(trainer, part)
    assert_same(accumulated)
    checkpointed = make_trainer(constant, edit=with_regions, objective_weight=1.0, gradient_checkpointing=True, **ONE)
    assert_same(loss_of(checkpointed, rollout(checkpointed))[1])


def test_rows_without_a_region_take_no_part(make_trainer):
    trainer = make_trainer(
        constant, edit=lambda rows: rows.filter(lambda row: not row["has_region"]), objective_weight=1.0, **ONE
    )
    loss, gradients = loss_of(trainer, rollout(trainer))
    assert loss == 0 and not any(gradient.any() for gradient in gradients.values())
    assert "objective/region" not in trainer._metrics["train"]


def test_trl_may_still_turn_checkpointing_reentrant(make_trainer, monkeypatch):
    """As it does for an adapter under ZeRO-3, after the config was checked."""

    def made_reentrant(self, model, rewards, args, **kwargs):
        args.gradient_checkpointing_kwargs = {"use_reentrant": True}
        init(self, model, rewards, args, **kwargs)

    init = GRPOTrainer.__init__
    monkeypatch.setattr(GRPOTrainer, "__init__", made_reentrant)
    with pytest.raises(ValueError, match="take ZeRO-2"):
        make_trainer(constant, objective_weight=0.1, gradient_checkpointing=True, **ONE)


REFUSED = yaml.safe_load(Path(__file__).with_name("refused.yaml").read_text())["configs"]


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_cannot_work(tmp_path, fields, message):
    config = AnchoredSFTConfig if (fields := dict(fields)).pop("sft", False) else RegionGRPOConfig
    with pytest.raises(ValueError, match=message):
        config(output_dir=str(tmp_path), use_cpu=True, bf16=False, **fields)


EVEN = torch.tensor([[0.5, 0.5]])


def test_samples_without_a_region_take_no_part():
    target, image = torch.tensor([[0.2, 0.2], [0.0, 0.0]]), torch.tensor([[0.1, 0.1], [0.1, 0.1]])
    weights = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    assert region_objective(target, image, weights).item() == pytest.approx(-0.6, abs=1e-5)
    none = region_objective(target.requires_grad_(), image, torch.zeros(2, 2))
    none.backward()
    assert none.item() == 0 and target.grad.abs().sum() == 0


def test_avar_losses():
    # head image means .1 and .2, system means .55 and .25; one layer, two heads, two queries
    image = torch.tensor([[0.1, 0.1], [0.15, 0.25]])[None, None] * 3  # mass on 3 keys
    system = torch.tensor([[0.5, 0.6], [0.2, 0.3]])[None, None] * 2
    queries = torch.ones(1, 2)
    enhance = -mean_log_attention(image, torch.tensor([3.0]), queries)
    suppress = mean_log_attention(system, torch.tensor([2.0]), queries, eps=1e-6)
    assert enhance.item() == pytest.approx(1.956012, abs=1e-6)
    assert suppress.item() == pytest.approx(-0.992063, abs=1e-6)
    assert 1 + 0.15 * enhance.item() + 0.15 * suppress.item() == pytest.approx(1.144592, abs=1e-6)


def test_avar_skips_samples_without_keys_or_queries():
    masses = torch.full((3, 1, 2, 2), 0.2)
    sizes, queries = torch.tensor([2.0, 0.0, 2.0]), torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert mean_log_attention(masses, sizes, queries).item() == pytest.approx(math.log(0.1), abs=1e-6)


def test_rows_with_a_weight():
    rows, weights = weighted_rows(torch.tensor([[0.0, 0.7, 0.0, 0.3], [0.0, 0.0, 0.0, 1.0], [0.0] * 4]))
    assert rows[0].tolist() == [1, 3] and rows[1, weights[1] > 0].tolist() == [3]
    assert weights.sum(dim=1).tolist() == [1.0, 1.0, 0.0]
