"""Advantages per token in the trainer: what TRL's losses make of them, and what shapers are handed."""

import dataclasses
import itertools
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_runs import rollout

from sayo.attention import AttentionTrace
from sayo.recipes import RecipeError
from sayo.rewards import region_attention_reward
from sayo.training.advantages import ShapingBatch, blank_patches, causal_credit, perceptual_anchors, token_perception
from sayo.training.credit import TOKEN_MEAN_LOSSES, TOKEN_SUM_LOSSES, advantage_parts

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
    """The first token of a group is paid the whole reward, later ones what is still to come, and logs say so."""
    seen = []

    def shaper(batch):
        seen.append((batch, causal_credit(batch, reward="region_attention_reward", select="all", rows="of_token")))
        return seen[-1][1]

    rewards = [partial(region_attention_reward, select="all"), lengths]
    rewards[0].__name__ = "region_attention_reward"
    trainer = make_trainer(rewards, advantage_shaper=shaper, loss_type="grpo", **ONE)
    trainer.train()
    batch, shaped = seen[0]
    torch.testing.assert_close(shaped[:, 0], batch.advantages, atol=1e-5, rtol=1e-4)
    assert (shaped[:, 1:] - batch.advantages[:, None])[batch.completion_mask[:, 1:] == 1].abs().max() > 0.01
    shares = [trainer.state.log_history[0][f"gradient_share/{name}"] for name in batch.parts]
    assert sum(shares) == pytest.approx(1.0) and min(shares) > 0


@pytest.mark.parametrize("loss", ["grpo", "luspo"])
def test_a_shaper_at_sequence_level_is_refused(make_trainer, loss):
    fields = {**ONE, "importance_sampling_level": "sequence", "loss_type": loss}
    with pytest.raises(RecipeError, match="would do nothing"):
        make_trainer(lengths, advantage_shaper=lambda batch: None, **fields)


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


def trace(entropy, maps=None, region=None, num_visual=4.0):
    """One layer; a quarter of the visual tokens is the region."""
    rows, length = np.linspace(0.1, 0.3, len(entropy) + 1) if region is None else region, len(entropy)
    masses = {"image": np.full((1, length + 1), 0.5, np.float32), "region": np.array([rows], np.float32)}
    sizes = {"image": num_visual, "region": num_visual / 4}
    return AttentionTrace(masses, sizes, np.array(entropy, np.float32), (0,), maps)


def shaping_batch(advantages, traces, parts=None, dependency=None, gather=lambda tensor: tensor, **more):
    """One group of completions; `more`: `scales` and `paid` of every reward, by default 1 and all."""
    lengths = torch.tensor([len(one) for one in traces])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    names, every = list(parts or {}), torch.ones(len(traces))
    scales, paid = (dict.fromkeys(names, more.get(key, every)) for key in ("scales", "paid"))
    return ShapingBatch(
        torch.tensor(advantages), parts or {}, scales, paid, mask, traces,
        lambda: torch.tensor(dependency), gather, group_mean,
    )  # fmt: skip


def group_mean(values):
    return values.mean(dim=0, keepdim=True).expand_as(values)


def every_response(rows, closed=()):
    """A group of all 16 responses of four tokens 0 or 1; the attention of a row depends on what it has seen."""
    responses = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    rng, traces = np.random.default_rng(0), []
    of_prefix = {
        tuple(prefix): rng.uniform(0.05, 0.4) for n in range(5) for prefix in itertools.product((0, 1), repeat=n)
    }
    for response in responses.tolist():
        region = [of_prefix[tuple(response[:n])] for n in range(5)]
        traces.append(trace([1.0] * 4, region=region, num_visual=16.0))
    rewards = torch.tensor(region_attention_reward([""] * 16, traces, rows=rows, select="all"))[:, None]
    paid = torch.ones(16, dtype=torch.bool)
    paid[list(closed)] = False
    rewards = rewards * paid[:, None]
    parts, scales, _ = advantage_parts(rewards, torch.ones(1), 16)
    batch = shaping_batch(parts[:, 0].tolist(), traces, {"attention": parts[:, 0]}, scales=scales[:, 0], paid=paid)
    return responses, rewards[:, 0], batch


@pytest.mark.parametrize("rows", ["deciding", "of_token"])
def test_causal_credit_has_the_gradient_of_the_reward(rows):
    """By enumeration: a policy of four free coins, all 16 responses equally likely; d E[R] / d logit_t exactly."""
    responses, rewards, batch = every_response(rows)
    score = responses - 0.5  # d log p(y_t) / d logit_t at p = 1/2
    true = (rewards[:, None] * score).mean(dim=0)
    shaped = causal_credit(batch, rows=rows, select="all")
    found = (shaped * score).mean(dim=0)
    assert (true[-1].abs() < 1e-6) == (rows == "deciding")  # the last token comes behind the row that chose it
    torch.testing.assert_close(found / found[0], true / true[0], atol=1e-5, rtol=1e-5)
    # what falls away is noise
    noise = [(advantages * score).var(dim=0).sum() for advantages in (batch.advantages[:, None], shaped)]
    assert noise[1] < 0.8 * noise[0]


def test_causal_credit_takes_nothing_from_a_reward_that_was_not_paid():
    """A closed gate paid 0: there is nothing in it that earlier rows earned."""
    _, _, batch = every_response("of_token", closed=(0, 7))
    shaped = causal_credit(batch, rows="of_token", select="all")
    shifted = shaped[0] - shaped[7]  # both paid 0, and alike up to the group's mean of each position
    torch.testing.assert_close(shifted, torch.zeros(4), atol=1e-6, rtol=0)


def test_equal_rewards_of_unequal_rows_are_not_blown_up():
    """Rewards that hardly differ have a tiny standard deviation; what rows contributed may differ far more."""
    early, late = [0.4, 0.4, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4001]
    traces = [trace([1.0] * 3, region=region, num_visual=16.0) for region in (early, late)]
    batch = shaping_batch([-1.0, 1.0], traces, {"attention": torch.tensor([-1.0, 1.0])}, scales=torch.full((2,), 1e4))
    shaped = causal_credit(batch, select="all")
    assert 0.5 < shaped.abs().max() < 2


def test_causal_credit_needs_the_reward():
    with pytest.raises(KeyError, match="accuracy"):
        causal_credit(shaping_batch([1.0], [trace([1.0])], {"accuracy": torch.tensor([1.0])}))


def test_token_perception_worked_numbers():
    # S_bar = [.5, .1, .3, .1] -> scales [1.166667, .9, 1.033333, .9]
    dependency = [[0.5, 0.5], [0.1, 0.1], [0.3, 0.3], [0.1, 0.1]]
    batch = shaping_batch([1.0, -1.0, 1.0, -1.0], [trace([1.0, 1.0])] * 4, dependency=dependency)
    shaped = token_perception(batch, share=1.0)
    alike = shaping_batch([1.0, -1.0], [trace([1.0, 1.0])] * 2, dependency=[[0.2, 0.2]] * 2)
    assert token_perception(alike, share=1.0).tolist() == [[1.0, 1.0], [-1.0, -1.0]]
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
    alike = shaping_batch([2.0], [trace([1.0] * 5, np.full((1, 6, 4), 0.05, np.float32))])
    assert perceptual_anchors(alike, min_tokens=1).tolist() == [[2.0] * 5]


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
    given = dict.fromkeys(parts, torch.ones(3))
    return ShapingBatch(
        values.sum(dim=0), parts, given, given, mask, traces, lambda: dependency, lambda tensor: tensor, group_mean
    )


@pytest.mark.parametrize("shaper", [causal_credit, token_perception, perceptual_anchors])
def test_padding_and_company_change_nothing(shaper):
    """A completion is shaped alike alone and among others, however far the batch is padded."""
    together = random_batch(width=20)
    means = torch.stack([row[:size].mean() for row, size in zip(together.dependency(), SIZES, strict=True)])
    group_means = []

    def remember(values):
        group_means.append(group_mean(values))
        return group_means[-1]

    shaped = shaper(dataclasses.replace(together, group_mean=remember))
    assert not shaped[together.completion_mask == 0].any()
    for row, size in enumerate(SIZES):
        parts = {name: part[[row]] for name, part in together.parts.items()}
        given, known = dict.fromkeys(parts, torch.ones(1)), iter(group_means)
        alone = ShapingBatch(
            together.advantages[[row]], parts, given, given, together.completion_mask[[row], :size],
            [together.traces[row]], lambda row=row, size=size: together.dependency()[[row], :size],
            lambda _: means,  # the other completions are on other ranks
            lambda values, known=known: next(known)[:1, : values.shape[1]],
        )  # fmt: skip
        torch.testing.assert_close(shaper(alone)[0], shaped[row, :size])


@pytest.mark.parametrize("shaper", [causal_credit, token_perception, perceptual_anchors])
def test_shapers_are_linear(shaper):
    """What the log's shares of the gradient rest on: shaping the parts is shaping their sum."""
    batch = random_batch()
    parts = []
    for name, part in batch.parts.items():
        others = {other: torch.zeros(3) for other in batch.parts}
        alone = {"parts": {**others, name: part}, "scales": {**others, name: batch.scales[name]}}
        parts.append(shaper(dataclasses.replace(batch, advantages=part, **alone)))
    torch.testing.assert_close(sum(parts), shaper(batch))
