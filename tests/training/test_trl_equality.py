"""With an attention reward of weight 0, every option of TRL trains to the parameters that plain TRL trains to."""

from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from peft import LoraConfig
from toy_runs import TRAINER, rollouts
from transformers import AutoModelForImageTextToText
from trl import GRPOConfig, GRPOTrainer

from sayo.attention.groups import vision_token_ids
from sayo.processors import load_auto_processor
from sayo.rewards import region_attention_reward
from sayo.training.banned import ban_tokens
from sayo.training.config import RegionGRPOConfig
from sayo.training.grpo import RegionGRPOTrainer

TABLE = yaml.safe_load(Path(__file__).with_name("trl_options.yaml").read_text())
CASES = [pytest.param(case, id=name) for name, case in TABLE["quick"].items()]
CASES += [pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in TABLE["slow"].items()]
TRAINERS = {GRPOTrainer: GRPOConfig, RegionGRPOTrainer: RegionGRPOConfig}


def lengths(completions, completion_ids, **kwargs):
    return [float(sum(ids) % 7) for ids in completion_ids]


def words(prompts, trainer, env_mask=False):
    """A rollout function; with `env_mask`, the second and third token of a completion are not the policy's."""
    assert type(trainer.args.gradient_accumulation_steps) is int and trainer.args.gradient_accumulation_steps == 1
    sentence = trainer.processing_class.tokenizer("I look at the red one").input_ids
    output = rollouts([sentence[:4], sentence[:5], sentence[:6]])(prompts, trainer)
    masks = [[1, 0, 0] + [1] * (len(ids) - 3) for ids in output["completion_ids"]]
    return output | ({"env_mask": masks} if env_mask else {})


def two_images(row):
    return {name: row[name] * 2 for name in ("images", "image_sizes", "num_visual_tokens")}


def trained(trainer_class, toys, tmp_path, case):
    fields = {**TRAINER, "output_dir": str(tmp_path / "run"), "max_completion_length": 5, **case}
    kinds = fields.pop("with", [])
    family = "qwen2_5_vl" if "qwen2_5_vl" in kinds else "qwen3_vl"
    dtype = torch.bfloat16 if "bf16_weights" in kinds else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(toys.policy[family], dtype=dtype)
    if "early_eos" in kinds:  # a third of the words ends a completion
        model.generation_config.eos_token_id = list(range(1, model.config.text_config.vocab_size, 3))
    if "attention_dropout" in kinds:
        for layer in model.get_decoder().layers:
            layer.self_attn.attention_dropout = 0.1
    rows = load_dataset(str(toys.data[family]), split="train", cache_dir=str(tmp_path / "cache"))
    rewards, weights = ([lengths, region_attention_reward], [1.0, 0.0])
    if trainer_class is GRPOTrainer:
        rewards, weights = rewards[:1], weights[:1]
    rollouts = {"rollout": words, "env_mask": lambda prompts, trainer: words(prompts, trainer, env_mask=True)}
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.2)
    trainer = trainer_class(
        model=model,
        reward_funcs=rewards,
        args=TRAINERS[trainer_class](**fields, reward_weights=weights),
        train_dataset=rows.map(two_images) if "two_images" in kinds else rows,
        eval_dataset=rows.select(range(2)) if "evaluated" in kinds else None,
        processing_class=load_auto_processor(toys.policy[family]),
        peft_config=lora if "lora_dropout" in kinds else None,
        rollout_func=next((rollouts[kind] for kind in kinds if kind in rollouts), None),
    )
    if trainer_class is GRPOTrainer:  # the one thing that sayo changes about a policy
        for one in filter(None, (trainer.model, trainer.ref_model)):
            ban_tokens(one, vision_token_ids(model.config))
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(before[name], parameter) for name, parameter in after.items())
    return after, trainer.state.log_history


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_trls(toys, tmp_path, case):
    (ours, log), (theirs, trls_log) = (trained(one, toys, tmp_path, case) for one in reversed(TRAINERS))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for line, trls in zip(log, trls_log, strict=True):
        names = [name for name in ("loss", "grad_norm", "entropy", "eval_loss") if name in trls]
        assert [line.get(name) for name in names] == [trls[name] for name in names]
