"""The trainer in one process: what reward functions see, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets
from peft import LoraConfig
from toy_runs import TRAINER, Probe, rollouts

from sayo.attention import AttentionNotCaptured
from sayo.rewards import format_reward, region_attention_reward, visual_share_reward
from sayo.training.config import RegionGRPOConfig


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("qwen3_vl", {}),  # aligned: TRL would skip its scoring pass
        ("qwen2_5_vl", {"gradient_accumulation_steps": 2, "steps_per_generation": 4}),
        ("qwen3_vl", {"num_iterations": 2}),
    ],
    ids=["aligned", "more steps per generation", "more iterations"],
)
def test_one_trace_per_completion(make_trainer, family, sizes):
    probe = Probe()
    make_trainer(probe, family, **sizes).train()
    generations = {4: 1}.get(sizes.get("steps_per_generation"), 2 // sizes.get("num_iterations", 1))
    rows = 4 * sizes.get("steps_per_generation", 1)
    assert [len(call["attention"]) for call in probe.calls] == [rows] * generations
    for call in probe.calls:
        for trace, ids, has_region in zip(call["attention"], call["completion_ids"], call["has_region"], strict=True):
            assert len(trace) == len(ids) and trace.has_region == has_region
            assert trace.sizes["system"] == 0, "no prompt here has a system turn"
            assert all(np.isfinite(mass).all() and (mass >= 0).all() for mass in trace.masses.values())


def outside_rollouts(prompts, trainer):
    sentence = trainer.processing_class.tokenizer("I look at the red one").input_ids
    return rollouts([sentence[:3], sentence[:4], sentence[:5]])(prompts, trainer)


@pytest.mark.parametrize("rollout_func", [None, outside_rollouts], ids=["sampled", "ids from outside the model"])
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_attention_equals_an_eager_pass(make_trainer, family, rollout_func):
    """What a reward sees is the attention that the same weights, in eager mode, pay to the same tokens, wherever the
    tokens come from."""
    probe, scored = Probe(), {}
    trainer = make_trainer(probe, family, rollout_func=rollout_func, max_steps=1, learning_rate=0.0)
    score = trainer._generate_and_score_completions

    def keep(inputs):
        output = score(inputs)
        joined = {
            key: torch.cat([output[f"prompt_{key}"], output[f"completion_{key}"]], dim=1) for key in ("ids", "mask")
        }
        names = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
        images = {name: output[name] for name in names if output.get(name) is not None}
        scored.update(**joined, keep=output["completion_ids"].shape[1], images=images)
        return output

    trainer._generate_and_score_completions = keep
    trainer.train()
    model = trainer.model.eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(
            input_ids=scored["ids"], attention_mask=scored["mask"], output_attentions=True, **scored["images"]
        )
    attention = output.attentions[-1].mean(dim=1).numpy()  # (B, S, S)
    (call,) = probe.calls
    prompt = scored["ids"].shape[1] - scored["keep"]
    if rollout_func is not None:
        assert [len(trace) for trace in call["attention"]] == [3, 4, 5, 3]
        assert trainer.processing_class.decode(scored["ids"][2, prompt:]) == "I look at the red"
    for row, trace in enumerate(call["attention"]):
        visual = np.flatnonzero(scored["ids"][row, :prompt] == model.config.image_token_id)
        assert len(visual) == sum(call["num_visual_tokens"][row])
        rows = attention[row, prompt - 1 : prompt + len(trace)]
        np.testing.assert_allclose(trace.masses["image"][0], rows[:, visual].sum(axis=1), atol=2e-6)
        if trace.has_region:
            target = visual[call["region_tokens"][row]]
            expected = (rows[:, target] * call["region_weights"][row]).sum(axis=1)
            np.testing.assert_allclose(trace.masses["region"][0], expected, atol=2e-6)


def test_rows_without_region(make_trainer):
    """In one batch with and without regions, the attention reward is None where there is none, and never 0."""
    seen = []

    def attention(**kwargs):
        rewards = region_attention_reward(**kwargs)
        seen.extend(zip(kwargs["has_region"], rewards, strict=True))
        return rewards

    def mixed(rows):
        with_region = rows.filter(lambda row: row["has_region"]).select(range(4))
        return concatenate_datasets([with_region, rows.filter(lambda row: not row["has_region"]).select([0])] * 2)

    trainer = make_trainer([attention, format_reward], edit=mixed, max_steps=5)
    trainer.train()
    assert {has_region for has_region, _ in seen} == {True, False}
    assert all((reward is not None) == has_region for has_region, reward in seen)
    assert all(math.isfinite(line["loss"]) for line in trainer.state.log_history if "loss" in line)


def test_a_cut_prompt_is_detected(make_trainer):
    """Pixel limits that differ from the prepared ones leave another number of visual tokens in the prompt."""
    trainer = make_trainer(Probe())
    trainer.processing_class.image_processor.size = {"shortest_edge": 128 * 128, "longest_edge": 128 * 128}
    with pytest.raises(AttentionNotCaptured, match="64 visual tokens, but the data were prepared for 16"):
        trainer.train()


@pytest.mark.parametrize("peft_config", [None, LoraConfig(target_modules="all-linear")], ids=["full", "LoRA"])
def test_vision_tokens_are_neither_sampled_nor_scored(make_trainer, peft_config):
    """The distribution that is scored has no mass on them, as the one that is sampled; nothing of it is saved."""
    trainer = make_trainer(Probe(), peft_config=peft_config, beta=0.1)
    trainer._ban_vision_tokens()  # as a second trainer of the same model would
    config, before = trainer.model.config, trainer.model.state_dict().keys()
    banned = [getattr(config, f"{name}_token_id") for name in ("image", "video", "vision_start", "vision_end")]
    words = torch.arange(len(trainer.processing_class.tokenizer))
    ids = torch.stack([torch.full_like(words, words[5]), words], dim=1)  # every word after the same one
    for model in filter(None, (trainer.model, trainer.ref_model)):
        has_entropy = model is trainer.model
        with torch.no_grad():
            score = trainer._get_per_token_logps_and_entropies
            logps, entropies, _ = score(model.eval(), ids, torch.ones_like(ids), 1, compute_entropy=has_entropy)
            logits = model(input_ids=ids[:1]).logits[0, 0]
        torch.testing.assert_close(logps[:, 0], logits.log_softmax(-1))
        assert logps.exp().sum() == pytest.approx(1, abs=1e-5) and logps[banned].max() < -1000
        assert not has_entropy or entropies.isfinite().all()
    assert "lm_head.bias" not in {key.rpartition("model.")[2] for key in before}


def test_batch_that_cannot_be_divided(tmp_path):
    fields = {**TRAINER, "output_dir": str(tmp_path), "num_generations": 4}
    told = r"num_generations in \[2, 3, 6\], .* per_device_train_batch_size in \["
    with pytest.raises(ValueError, match=told) as caught:
        RegionGRPOConfig(**{**fields, "per_device_train_batch_size": 6})
    for size in json.loads(str(caught.value).rpartition("in ")[2].rstrip(".")):
        RegionGRPOConfig(**{**fields, "per_device_train_batch_size": size})


def test_overlay_is_written(make_trainer, tmp_path):
    from PIL import Image

    make_trainer(Probe(), max_steps=3, overlay_steps=2).train()
    pictures = sorted((tmp_path / "run" / "overlays").iterdir())
    assert [path.name for path in pictures] == ["overlay_00000.png", "overlay_00002.png"]
    assert np.asarray(Image.open(pictures[0]).convert("RGB")).std() > 10


def test_rewards_see_the_words_of_the_prompt(make_trainer):
    """Beside image and target: what stands before the image, the turns' words, the response so far."""
    probe = Probe()
    system = {"role": "system", "content": "Look at the picture ."}

    def told(rows):
        return rows.map(lambda row: {"prompt": [system, *row["prompt"]]})

    trainer = make_trainer([probe, visual_share_reward], edit=told, max_steps=1)
    trainer.train()
    tokenizer = trainer.processing_class.tokenizer
    for trace, question, ids in zip(
        probe.calls[0]["attention"], probe.calls[0]["question"], probe.calls[0]["completion_ids"], strict=True
    ):
        assert trace.sizes["system"] == len(tokenizer(system["content"]).input_ids)
        assert trace.sizes["question"] == len(tokenizer(question).input_ids)
        assert trace.sizes["response"] == len(ids) and trace.masses["response"][0, 0] == 0
        prompt = trace.sizes["prefix"] + trace.sizes["image"]
        assert trace.sizes["prefix"] > trace.sizes["system"] and prompt > trace.sizes["question"]
        parts = sum(trace.masses[name] for name in ("prefix", "image", "question", "response"))
        assert (parts < 1).all() and (parts > 0.5).all()  # the rest are markers of the template


def test_prompts_without_any_image(make_trainer):
    """Nothing about an image is logged, and the words of the prompt are found all the same."""
    probe = Probe()
    columns = ["images", "num_visual_tokens", "region_tokens", "region_weights", "processor_fingerprint"]
    make_trainer(probe, edit=lambda rows: rows.remove_columns(columns), max_steps=1, attention_layers="all").train()
    for trace in probe.calls[0]["attention"]:
        assert set(trace.masses) == {"question", "response"} and trace.sizes["image"] == 0 and not trace.has_region
