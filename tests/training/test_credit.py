"""Gates, parts of an advantage, the floor, and each reward's share."""

import inspect
import math
import textwrap
from types import SimpleNamespace

import pytest
import torch
from toy_runs import recipe_values
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

from sayo.recipes import parse_recipe
from sayo.training import credit
from sayo.training.credit import (
    advantage_parts,
    check_gates,
    check_parts,
    pay_gated,
    token_weights_of_loss,
    zero_std_share,
)
from sayo.training.run import build_trainer

NAN = math.nan
NAMES = ["accuracy", "attention"]


@pytest.mark.parametrize(
    ("gate", "paid"),
    [
        ("always", [0.5, 0.9, NAN, 0.7, 0.2, 0.4]),
        ("correct", [0.5, 0.0, NAN, 0.0, NAN, 0.0]),
        ("group", [0.5, 0.9, NAN, 0.0, 0.0, 0.0]),
    ],
)
def test_gates(gate, paid):
    """Groups of three: one has a right answer; in the other none is right, and one has no reference answer."""
    accuracy = torch.tensor([1.0, 0.0, 0.0, 0.0, NAN, 0.0])
    attention = torch.tensor([0.5, 0.9, NAN, 0.7, 0.2, 0.4])
    rewards = pay_gated(torch.stack([accuracy, attention], dim=1), NAMES, ["always", gate], 3)
    torch.testing.assert_close(rewards[:, 1], torch.tensor(paid), equal_nan=True)
    torch.testing.assert_close(rewards[:, 0], accuracy, equal_nan=True)


def test_a_group_gate_without_any_reference_answer_pays_nobody():
    assert pay_gated(torch.tensor([[NAN, 0.3], [NAN, 0.6]]), NAMES, ["always", "group"], 2)[:, 1].isnan().all()


@pytest.mark.parametrize(
    ("gates", "names", "message"),
    [
        (["always"], NAMES, "has 1 entries"),
        (["always", "sometimes"], NAMES, "got 'sometimes'"),
        (["correct", "always"], NAMES, "opened by another reward"),
        (["always", "group"], ["format", "attention"], "Add one; with weight 0"),
    ],
)
def test_gates_that_cannot_open(gates, names, message):
    with pytest.raises(ValueError, match=message):
        check_gates(gates, names)


def test_the_floor_keeps_noise_small():
    """Two groups: a real difference of .2, and rounding noise of 1e-6 that TRL would blow up to .7% of that."""
    rewards = torch.tensor([[0.4], [0.6], [0.5], [0.500001]])
    without, floored = (advantage_parts(rewards, torch.ones(1), 2, std_floor=floor)[0][:, 0] for floor in (0, 0.05))
    for parts in (without, floored):
        assert parts[:2].tolist() == pytest.approx([-0.7066, 0.7066], abs=1e-3)
    assert without[3] > 4e-3 and floored[3] < 2e-5


def test_share_of_groups_without_a_difference():
    rewards = torch.tensor([[1.0, 0.1, NAN], [1.0, 0.2, NAN], [0.0, 0.3, NAN], [1.0, 0.3, 1.0]])
    assert zero_std_share(rewards, 2).tolist() == [0.5, 0.5, 1.0]


def test_weights_of_the_loss():
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    assert token_weights_of_loss("grpo", mask).tolist() == [[0.25] * 4, [1.0, 0.0, 0.0, 0.0]]
    assert token_weights_of_loss("dapo", mask).tolist() == [[1.0] * 4, [1.0, 0.0, 0.0, 0.0]]


def test_unknown_modes_of_trl_are_refused():
    rewards, weights = torch.rand(4, 2), torch.ones(2)
    with pytest.raises(ValueError, match="scale_rewards='running' is not known"):
        advantage_parts(rewards, weights, 2, scale_rewards="running")
    with pytest.raises(ValueError, match="multi_objective_aggregation='median' is not known"):
        advantage_parts(rewards, weights, 2, aggregation="median")
    with pytest.raises(ValueError, match="loss_type='newest' is not known"):
        token_weights_of_loss("newest", torch.ones(2, 3))


MODES = [(scale, "sum_then_normalize") for scale in ("group", "batch", "none")] + [("group", "normalize_then_sum")]


def trls_advantages(rewards, weights, num_generations, scale_rewards, aggregation):
    """What TRL's own lines make of rewards."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    start = source.index("        unscorable_mask = torch.isnan(rewards_per_func)")
    lines = source[start : source.index("        # Slice to keep only the local part")]
    modes = {"scale_rewards": scale_rewards, "multi_objective_aggregation": aggregation}
    trainer = SimpleNamespace(**modes, reward_weights=weights, reward_funcs=list(weights))
    names = {"self": trainer, "rewards_per_func": rewards.clone(), "num_generations": num_generations, "device": "cpu"}
    exec(textwrap.dedent(lines), {"torch": torch, "nanstd": nanstd}, names)
    return names["advantages"]


def random_rewards(seed):
    """`(N, F)` and weights: of any size, or all alike, or nearly; some missing; N and F of any number."""
    draw = torch.Generator().manual_seed(seed)
    groups, size, columns = 1 + seed % 9, (2, 4, 16)[seed % 3], 1 + seed % 4
    values = torch.randn(groups, size, columns, generator=draw) * 10.0 ** torch.randint(
        -4, 5, (columns,), generator=draw
    )
    kinds = [values, (values > 0).float(), values[:, :1].expand_as(values), 1 + 1e-7 * values.sign(), 1000 + values]
    rewards = kinds[seed % len(kinds)].reshape(groups * size, columns).clone()
    if seed % 2:
        rewards[torch.rand(rewards.shape, generator=draw) < 0.4] = NAN
    return rewards, 3 * torch.rand(columns, generator=draw), size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("modes", MODES)
def test_parts_of_random_rewards_are_trls(modes, dtype):
    for seed in range(60):
        rewards, weights, size = random_rewards(seed)
        arguments = (rewards.to(dtype), weights, size, *modes)
        parts, _, rounding = advantage_parts(*arguments)
        check_parts(parts, trls_advantages(*arguments), rounding)


@pytest.mark.parametrize("modes", MODES)
def test_another_normalisation_is_noticed(modes, monkeypatch):
    """Another mode, and already another number beside the standard deviation."""
    rewards, weights = torch.rand(32, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 0.5])
    parts, _, rounding = advantage_parts(rewards, weights, 8, *modes)
    for others in MODES:
        if others != modes:
            with pytest.raises(RuntimeError, match="sum to other advantages than TRL's"):
                check_parts(parts, trls_advantages(rewards, weights, 8, *others), rounding)
    monkeypatch.setattr(credit, "EPS", 1e-6)
    if modes[0] != "none":
        with pytest.raises(RuntimeError, match="Install the version"):
            check_parts(advantage_parts(rewards, weights, 8, *modes)[0], parts.sum(dim=1), rounding)


def counting(column, missing=None):
    """A reward that differs within and between groups; None for every third completion where it says so."""

    def reward(completions, **kwargs):
        values = [math.sin(7.0 * column + index + len(str(text))) for index, text in enumerate(completions)]
        return [None if missing and index % missing == 1 else value for index, value in enumerate(values)]

    reward.__name__ = f"reward_{column}"
    return reward


class Remember:
    """A shaper that keeps the batches and spreads nothing."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch)
        return batch.advantages[:, None].expand(batch.completion_mask.shape)


def test_parts_in_a_run(make_trainer, monkeypatch):
    """With a reward that does not apply to some, another to nobody, and completions that nothing applies to."""
    remember = Remember()

    def never(completions, **kwargs):
        return [None] * len(completions)

    fields = {"reward_weights": [1.0, 0.3, 2.0], "per_device_train_batch_size": 8, "num_generations": 4}
    trainer = make_trainer(
        [counting(0, missing=4), counting(1, missing=2), never], advantage_shaper=remember, max_steps=1, **fields
    )
    trainer.train()
    batch = remember.batches[0]
    assert list(batch.parts) == ["reward_0", "reward_1", "never"] and not batch.parts["never"].any()
    assert batch.advantages.abs().min() == 0 and batch.advantages.abs().max() > 0.1
    torch.testing.assert_close(sum(batch.parts.values()), batch.advantages, atol=1e-6, rtol=1e-5)
    shares = [trainer.state.log_history[0][f"gradient_share/{name}"] for name in batch.parts]
    assert sum(shares) == pytest.approx(1.0) and shares[2] == 0
    trainer.scale_rewards = "none"  # as with a TRL that normalises in another way than the parts
    monkeypatch.setattr(credit, "advantage_parts", lambda *args: advantage_parts(*args[:3], "group", *args[4:]))
    with pytest.raises(RuntimeError, match="sum to other advantages than TRL's"):
        trainer.train()


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_rewards_of_one_name_are_one_part(make_trainer, floor):
    rewards, remember = [counting(0), counting(1), counting(0, missing=3)], Remember()
    make_trainer(rewards, advantage_shaper=remember, advantage_std_floor=floor, max_steps=1).train()
    batch = remember.batches[0]
    assert list(batch.parts) == ["reward_0", "reward_1"] and batch.advantages.abs().max() > 0.1
    torch.testing.assert_close(sum(batch.parts.values()), batch.advantages, atol=1e-6, rtol=1e-5)


def test_floor_gate_and_names_through_a_recipe(toys, tmp_path):
    """An accuracy that is never reached closes the gate, and the table shows the advantages that were used."""
    rewards = {
        "accuracy": {"function": "sayo.rewards.accuracy_reward", "weight": 0.0},
        "where": {"function": "sayo.rewards.region_attention_reward", "gate": "correct", "weight": 0.5},
        "shape": {"function": "sayo.rewards.format_reward", "options": {"min_tokens": 2, "max_tokens": 5}},
    }
    fields = {"advantage_std_floor": 0.5, "log_completions": True, "num_completions_to_print": 0}
    trainer = build_trainer(parse_recipe(recipe_values(toys, tmp_path, rewards=rewards, **fields)))
    generated = []
    make = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: generated.append(make(inputs)) or generated[-1]
    trainer.train()
    log = trainer.state.log_history[0]
    assert trainer.reward_weights.tolist() == [0.0, 0.5, 1.0]
    assert {"attention/coverage", "rewards/shape/std"} <= set(log)
    assert log["rewards/accuracy/mean"] == 0 and log["rewards/where/mean"] == 0 == log["rewards/where/std"]
    assert log["rewards/where/frac_zero_std"] == 1.0
    assert list(trainer._logs["advantages"]) == generated[-1]["advantages"].tolist()
