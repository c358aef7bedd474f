"""Attention read while generating: the same as a scoring pass reads, without that pass."""

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, IMAGE, build, prompts, teacher_forced
from torch.distributions import Categorical
from toy_runs import Probe, rollout, rollouts

from sayo.attention import AttentionCapture
from sayo.rollout import Completions, processor_inputs, rollout_groups
from sayo.training.generating import GenerationReading


def early_eos(trainer):
    """A third of the words ends a completion."""
    words = list(range(1, trainer.model.config.text_config.vocab_size, 3))
    trainer.eos_token_ids = trainer.generation_config.eos_token_id = words


def shorter(row, index):
    """Prompts of different lengths, so that some are padded."""
    return {"prompt": [{"role": "user", "content": " ".join(["red"] * (1 + index % 3 * 4))}]}


def run(make_trainer, family="qwen3_vl", obstacle=None, prepare=None, **fields):
    """(trainer, probe, number of passes over prompt + completion) of one step."""
    probe = Probe()
    edit = (lambda rows: rows.map(shorter, with_indices=True)) if prepare else None
    trainer = make_trainer(probe, family, edit, **{"max_steps": 1, "attention_layers": "all", **fields})
    trainer._obstacle = obstacle
    if prepare:
        prepare(trainer)
    passes, score = [], trainer._get_per_token_logps_and_entropies
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: passes.append(1) or score(*args, **kwargs)
    trainer.train()
    return trainer, probe, len(passes)


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.sizes == other.sizes and one.masses.keys() == other.masses.keys()
        for name, mass in other.masses.items():
            np.testing.assert_allclose(one.masses[name], mass, atol=2e-7)
        np.testing.assert_allclose(one.maps, other.maps, atol=5e-8)
        np.testing.assert_allclose(one.entropy, other.entropy, atol=2e-6)


def test_the_same_as_a_scoring_pass(make_trainer, capsys):
    """All rows of it, the last token's own too, without it; some prompts are padded, some responses end early."""
    fields = {"pad_to_multiple_of": 8, "max_completion_length": 9, "objective_weight": 0.1, "prepare": early_eos}
    _, generated, passes = run(make_trainer, "qwen2_5_vl", **fields)
    assert "attention is read while generating: steps are aligned" in capsys.readouterr().out
    _, scored, more = run(make_trainer, "qwen2_5_vl", "this is a test", **fields)
    assert "in one more forward of each generation, because this is a test" in capsys.readouterr().out
    assert (passes, more) == (1, 2)  # the loss's own, and one more
    assert generated.ids == scored.ids and len(set(map(len, generated.ids))) > 1
    assert_same(generated.traces, scored.traces)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_beams": 2}, "generate moves sequences between rows"),
        ({"use_cache": False}, "generate does not run a plain prompt with an empty cache"),
    ],
)
def test_where_it_cannot_be_a_scoring_pass_reads(make_trainer, capsys, options, reason):
    _, probe, passes = run(make_trainer, generation_kwargs=options, max_steps=2)
    assert f"in one more forward of each generation, because {reason}" in capsys.readouterr().out
    assert passes == 4 and [len(trace) for trace in probe.traces] == [len(ids) for ids in probe.ids]


@pytest.mark.parametrize("length", [4, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, length):
    """With random weights and without a trainer; a cache that drops keys is noticed."""
    model, inputs = build(family), prompts(family)
    capture, reading = AttentionCapture(model, layers="all"), GenerationReading(range(2), 1.0)
    with reading.during(model):
        sequences = model.generate(**inputs, max_new_tokens=length, min_new_tokens=length)
    assert "generate" not in vars(model)
    if reading.problem:
        assert "has a window" in reading.problem and family in ("gemma3", "paligemma2")
        return
    first, full = inputs["input_ids"].shape[1] - 1, teacher_forced(family, inputs, sequences)
    groups = {"image": full["input_ids"] == IMAGE, "response": torch.arange(sequences.shape[1]).expand(2, -1) > first}
    index = torch.arange(first).expand(2, -1)
    ours = reading.masses(groups, index, 2**26)
    with torch.no_grad(), capture.reading(slice(first, None), groups, index) as theirs:
        logits = model(**full).logits[:, first:-1]
    for name in groups:
        torch.testing.assert_close(ours.masses[name], theirs.masses[name][:, :2], atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.maps, theirs.maps[:, :2], atol=1e-6, rtol=0)
    torch.testing.assert_close(reading.entropies, Categorical(logits=logits).entropy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [{}, {"steps_per_generation": 2}], ids=["aligned", "off policy"])
def test_truncated_completions_are_scored_whole(make_trainer, sizes):
    """TRL hides them from its passes; the trace, and with it the baseline of the others, is that of the whole one."""
    _, masked, _ = run(make_trainer, prepare=early_eos, mask_truncated_completions=True, **sizes)
    _, plain, _ = run(make_trainer, prepare=early_eos, **sizes)
    assert masked.ids == plain.ids and any(len(ids) == 6 for ids in plain.ids)
    assert_same(masked.traces, plain.traces)


def test_tokens_of_others_are_no_response(make_trainer):
    """Traces, the response and the objective's rows hold the tokens that the policy chose, and no result of a tool."""
    answer, mask = [20, 21, 22, 23, 24, 25], [1, 0, 0, 1, 1, 0]

    seen = {}
    for name, more in {"all": {}, "chosen": {"env_mask": [mask] * 4}}.items():
        fields = {"rollout_func": rollouts([answer], **more), "objective_weight": 0.1}
        trainer = make_trainer(Probe(), edit=lambda rows: rows.filter(lambda row: row["has_region"]), **fields)
        seen[name] = (trainer.reward_funcs[0].__wrapped__.traces, rollout(trainer)["objective_row_weights"])
    is_chosen = np.array(mask, bool)
    for every, chosen in zip(seen["all"][0], seen["chosen"][0], strict=True):
        assert len(every) == 6 and len(chosen) == 3 and chosen.sizes["response"] == 3
        np.testing.assert_array_equal(chosen.entropy, every.entropy[is_chosen])
        for rows in ("deciding", "of_token"):
            np.testing.assert_array_equal(chosen.mass("image", rows), every.mass("image", rows)[:, is_chosen])
            np.testing.assert_array_equal(chosen.map(rows), every.map(rows)[:, is_chosen])
    assert not seen["chosen"][1][:, ~torch.tensor(is_chosen)].any() and seen["chosen"][1].any()


def test_images_of_tools_are_a_group(toy_policy, toy_rows):
    model, processor = toy_policy
    rows = [toy_rows[0]]
    inputs = processor_inputs(processor, rows, "cpu")
    image = model.config.image_token_id
    ids, chosen = torch.tensor([[20, image, image, 21]]), torch.tensor([[1, 0, 0, 1]])
    completions = Completions(ids, torch.ones_like(ids), chosen=chosen)
    groups, index = rollout_groups(model, processor, inputs, completions, rows)
    assert groups["tool_image"][0, -4:].tolist() == [0, 1, 1, 0] and groups["tool_image"].sum() == 2
    assert groups["response"][0, -4:].tolist() == [1, 0, 0, 1]
    assert groups["image"].sum() == index.shape[1] == sum(rows[0]["num_visual_tokens"])
