"""Advantages per token in the trainer: what TRL's losses make of them, and what shapers are handed."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_runs import rollout

from sayo.attention import AttentionTrace
from sayo.rewards import region_attention_reward
from sayo.training.advantages import ShapingBatch, blank_patches, causal_credit, perceptual_anchors, token_perception
from sayo.training.credit import TOKEN_MEAN_LOSSES, TOKEN_SUM_LOSSES

ONE = {"max_steps": 1, "per_device_train_batch_size": 8, "num_generations": 4}


def lengths(completions, **kwargs):
    return [float(len(str(text)) % 7) for text in completions]


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_every_loss_takes_advantages_per_token(make_trainer, level):
    """One advantage repeated for every token is the same loss as one per completion, also off-policy."""
    trainer = make_trainer(lengths, importance_sampling_level=level, beta=0.1, **ONE)
    inputs = rollout(trainer)
    trainer.off_policy_mask_threshold = 0.05
    inputs["old_per_token_logps"] = inputs["ref_per_token_logps"] + 0.1 * torch.randn_like(
        inputs["ref_per_token_logps"]
    )
    spread = {**inputs, "advantages": inputs["advantages"][:, None].repeat(1, inputs["completion_ids"].shape[1])}
    halved = {**inputs, "advantages": spread["advantages"] / 2}
    for trainer.loss_type in TOKEN_MEAN_LOSSES + TOKEN_SUM_LOSSES:
        losses = [trainer._compute_loss(trainer.model, batch).item() for batch in (inputs, spread, halved)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5), trainer.loss_type
        assert losses[0] != pytest.approx(losses[2], rel=1e-3), trainer.loss_type


def test_a_shaper_decides_which_tokens_learn(make_trainer):
    """Advantages on the first token alone: the gradient is that of the first token."""

    def first_token(batch):
        shaped = torch.zeros(batch.completion_mask.shape)
        shaped[:, 0] = batch.advantages
        return shaped

    trainer = make_trainer(lengths, advantage_shaper=first_token, loss_type="bnpo", **ONE)
    inputs = rollout(trainer)
    assert inputs["advantages"].shape == inputs["completion_ids"].shape and not inputs["advantages"][:, 1:].any()
    trainer.args.objective_weight = 0.0
    loss = trainer._compute_loss(trainer.model, inputs)
    expected = -inputs["advantages"].sum() / inputs["completion_mask"].sum()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_wrong_shape_is_refused(make_trainer):
    with pytest.raises(ValueError, match=r"must give every token an advantage: \(8, "):
        make_trainer(lengths, advantage_shaper=lambda batch: batch.advantages, **ONE).train()


def test_causal_credit_in_a_run(make_trainer):
    """The shares count what the shaper lets through: attention earns less than its part, the rest keeps its own."""
    seen = []

    def shaper(batch):
        seen.append(batch)
        return causal_credit(batch, reward="region_attention_reward", select="all")

    rewards = [region_attention_reward, lengths]
    trainer = make_trainer(rewards, advantage_shaper=shaper, loss_type="grpo", **ONE)
    trainer.train()
    size = seen[0].completion_mask.sum(dim=1)
    attention, other = (part.abs() for part in seen[0].parts.values())
    # With all rows alike, token t of T is paid (T - 1 - t) / T of what the attention earned: (T - 1) / 2T on average.
    paid = (attention * (size - 1) / (2 * size)).sum()
    share = trainer.state.log_history[0]["gradient_share/region_attention_reward"]
    assert share == pytest.approx((paid / (paid + other.sum())).item(), abs=1e-5) and 0 < share < 1


def test_vppo_measures_the_image(make_trainer):
    """A token depends on the image through one more forward; blank nothing, and nothing depends on it."""
    seen = []

    def shaper(batch):
        seen.append((batch.dependency(), batch.dependency()))
        return token_perception(batch, share=0.4)

    trainer = make_trainer(lengths, advantage_shaper=shaper, **ONE)
    inputs = rollout(trainer)
    dependency, again = seen[0]
    mask = inputs["completion_mask"].bool()
    assert dependency is again and (dependency >= 0).all() and (dependency[mask] > 0).float().mean() > 0.9
    learn = (inputs["advantages"] != 0).sum(dim=1)
    expected = torch.ceil(0.4 * mask.sum(dim=1)) * (inputs["advantages"] != 0).any(dim=1)
    assert learn.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("shape", "units", "vision"),
    [
        ((4000, 6), (1000, 4, 6), {"spatial_merge_size": 2}),
        ((40, 25, 6), (1000, 1, 6), {}),
        ((2, 5, 3, 40, 40), None, {"patch_size": [2, 2]}),
    ],
    ids=["packed", "patches", "pixels"],
)
def test_whole_tokens_are_blanked(shape, units, vision):
    torch.manual_seed(0)
    config = SimpleNamespace(vision_config=SimpleNamespace(**vision))
    inputs = {"pixel_values": torch.ones(shape), "image_grid_thw": None}
    blanked = blank_patches(inputs, config)["pixel_values"]
    if units is None:  # (2, 5, 3, 40, 40): squares of two patches of 2 x 2, all three channels of them
        cells = blanked.reshape(2, 5, 3, 10, 4, 10, 4).permute(0, 1, 3, 5, 2, 4, 6).reshape(1000, -1)
    else:
        cells = blanked.reshape(units)
    cells = cells.flatten(1)
    assert ((cells == 0).all(dim=1) | (cells == 1).all(dim=1)).all()
    assert (cells == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert inputs["pixel_values"].all() and blank_patches({"pixel_values": None}, config) == {"pixel_values": None}
    assert torch.equal(blank_patches(inputs, config, share=0.0)["pixel_values"], inputs["pixel_values"])


def test_maps_are_read_for_a_shaper_that_needs_them_and_only_within_the_budget(make_trainer):
    def shaper(batch):
        assert all(trace.maps.shape == (1, len(trace) + 1, 16) for trace in batch.traces)
        return perceptual_anchors(batch, min_tokens=2)

    shaper.needs_maps = True
    make_trainer(lengths, advantage_shaper=shaper, **ONE).train()
    trainer = make_trainer(lengths, advantage_shaper=shaper, attention_map_budget=1000, **ONE)
    with pytest.raises(ValueError, match="attention_map_budget"):
        trainer.train()
    trainer = make_trainer(lengths, attention_map_budget=1000, **ONE)
    trainer.train()
    assert not [name for name in trainer.state.log_history[0] if "sink_free" in name]


# The shapers


def trace(entropy, maps=None):
    length = len(entropy)
    masses = {"image": np.full((1, length + 1), 0.5, np.float32)}
    return AttentionTrace(masses, {"image": 4.0}, np.array(entropy, np.float32), (0,), maps)


def shaping_batch(advantages, traces, parts=None, dependency=None, gather=lambda tensor: tensor):
    lengths = torch.tensor([len(one) for one in traces])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    advantages = torch.tensor(advantages)
    return ShapingBatch(advantages, parts or {}, mask, traces, lambda: torch.tensor(dependency), gather)


def test_causal_credit_pays_what_the_row_could_see():
    parts = {"attention": torch.tensor([0.6]), "accuracy": torch.tensor([0.4])}
    batch = shaping_batch([1.0], [trace([0.1, 3.0, 0.2, 2.0])], parts)
    # the two most uncertain tokens are 1 and 3; their deciding rows have seen tokens < 1 and < 3
    shaped = causal_credit(batch, select="top_entropy", top_share=0.5)
    assert shaped[0].tolist() == pytest.approx([0.4 + 0.6, 0.4 + 0.3, 0.4 + 0.3, 0.4])
    shaped = causal_credit(batch, rows="of_token", select="top_entropy", top_share=0.5)
    assert shaped[0].tolist() == pytest.approx([1.0, 1.0, 0.7, 0.7])


def test_causal_credit_needs_the_reward():
    with pytest.raises(KeyError, match="accuracy"):
        causal_credit(shaping_batch([1.0], [trace([1.0])], {"accuracy": torch.tensor([1.0])}))


def test_token_perception_worked_numbers():
    # S_bar = [.5, .1, .3, .1] -> scales [1.166667, .9, 1.033333, .9]
    dependency = [[0.5, 0.5], [0.1, 0.1], [0.3, 0.3], [0.1, 0.1]]
    batch = shaping_batch([1.0, -1.0, 1.0, -1.0], [trace([1.0, 1.0])] * 4, dependency=dependency)
    shaped = token_perception(batch, share=1.0)
    assert shaped[:, 0].tolist() == pytest.approx([1.166667, -0.9, 1.033333, -0.9], abs=1e-6)
    # [1.135335, .106531, 0, .049859, .004837]: len 5, k = .4 -> tokens {0, 1}
    batch = shaping_batch([1.0], [trace([1.0] * 5)], dependency=[[1.135335, 0.106531, 0.0, 0.049859, 0.004837]])
    assert token_perception(batch)[0].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_anchors_follow_the_image():
    # c = [.30, .02, .05, .20, .03] -> [1.75, .583333, .708333, 1.333333, .625]
    c = np.array([0.30, 0.02, 0.05, 0.20, 0.03, 0.0])
    maps = np.zeros((1, 6, 100), np.float32)
    maps[0, :, :50] = c[:, None] / 50
    batch = shaping_batch([2.0], [trace([1.0] * 5, maps)])
    shaped = perceptual_anchors(batch, sink_share=1e-9, min_tokens=1)
    expected = 2 * np.array([1.75, 0.583333, 0.708333, 1.333333, 0.625])
    assert shaped[0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert shaped.mean().item() == pytest.approx(2.0, abs=1e-5)


def test_short_responses_keep_their_advantage():
    batch = shaping_batch([2.0], [trace([1.0, 1.0], np.random.rand(1, 3, 4).astype(np.float32))])
    assert perceptual_anchors(batch)[0].tolist() == [2.0, 2.0]


SIZES = [3, 9, 14]


def random_batch(width=14):
    """Completions with random attention, padded to `width`."""
    rng = np.random.default_rng(0)
    maps = [rng.dirichlet(np.ones(12), size=(2, size + 1)).astype(np.float32) * 0.5 for size in SIZES]
    traces = [trace(rng.random(size), row_maps) for size, row_maps in zip(SIZES, maps, strict=True)]
    values = torch.as_tensor(rng.normal(size=(2, len(SIZES))), dtype=torch.float32)
    dependency = torch.as_tensor(rng.random((len(SIZES), width)), dtype=torch.float32)
    mask = (torch.arange(width) < torch.tensor(SIZES)[:, None]).long()
    parts = {"attention": values[0], "accuracy": values[1]}
    return ShapingBatch(values.sum(dim=0), parts, mask, traces, lambda: dependency, lambda tensor: tensor)


@pytest.mark.parametrize("shaper", [causal_credit, token_perception, perceptual_anchors])
def test_padding_and_company_change_nothing(shaper):
    """A completion is shaped alike alone and among others, however far the batch is padded."""
    together = random_batch(width=20)
    means = torch.stack([row[:size].mean() for row, size in zip(together.dependency(), SIZES, strict=True)])
    shaped = shaper(together)
    assert not shaped[together.completion_mask == 0].any()
    for row, size in enumerate(SIZES):
        parts = {name: part[[row]] for name, part in together.parts.items()}
        alone = ShapingBatch(
            together.advantages[[row]], parts, together.completion_mask[[row], :size], [together.traces[row]],
            lambda row=row, size=size: together.dependency()[[row], :size],
            lambda _: means,  # the other completions are on other ranks
        )  # fmt: skip
        torch.testing.assert_close(shaper(alone)[0], shaped[row, :size])


@pytest.mark.parametrize("shaper", [causal_credit, token_perception, perceptual_anchors])
def test_shapers_are_linear(shaper):
    """What the log's shares of the gradient rest on: shaping the parts is shaping their sum."""
    batch = random_batch()
    parts = []
    for name, part in batch.parts.items():
        others = {other: torch.zeros(3) for other in batch.parts}
        parts.append(shaper(dataclasses.replace(batch, advantages=part, parts={**others, name: part})))
    torch.testing.assert_close(sum(parts), shaper(batch))
