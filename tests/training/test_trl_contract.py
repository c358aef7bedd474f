"""What we lean on inside TRL. A failure here names the method that moved; fix `sayo/training/` with it."""

import inspect
import pkgutil
from pathlib import Path

import pytest
import yaml
from trl import GRPOTrainer, SFTTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from sayo.training.credit import TOKEN_MEAN_LOSSES, TOKEN_SUM_LOSSES
from sayo.training.engine import SamePrompts
from sayo.training.guards import GuardedSteps
from sayo.training.objective import OpenCaptures
from sayo.training.resume import ExactResume

TABLE = yaml.safe_load(Path(__file__).with_name("trl_contract.yaml").read_text())
EXTENDED = {pkgutil.resolve_name(name): methods for name, methods in TABLE.items()}
RESTORED = ("_step", "_buffered_inputs", "_metrics", "_logs", "_tr_loss", "_total_loss_scalar")
BASES = [(ours, VLLMGeneration if ours is SamePrompts else GRPOTrainer) for ours in EXTENDED] + [
    (ours, SFTTrainer) for ours in (ExactResume, GuardedSteps, OpenCaptures)
]


@pytest.mark.parametrize(("ours", "base"), BASES)
def test_nothing_is_extended_but_what_is_pinned_here(ours, base):
    methods = {name for name, value in vars(ours).items() if callable(value) and hasattr(base, name)}
    assert methods - {"__init__"} == set(EXTENDED[ours])


@pytest.mark.parametrize(("ours", "base"), [*BASES, ({"_log_metric": "name value"}, GRPOTrainer)])
def test_signatures(ours, base):
    for name, words in (ours if isinstance(ours, dict) else EXTENDED[ours]).items():
        method = getattr(base, name, None)
        assert method is not None, f"TRL has no {base.__name__}.{name} any more; sayo builds on it"
        expected, actual = ["self", *words.split()], list(inspect.signature(method).parameters)
        assert actual[: len(expected)] == expected, f"TRL changed {base.__name__}.{name}: it starts with {actual} now"


def test_the_engine_is_still_made_where_we_replace_it():
    assert (
        "VLLMGeneration(" in inspect.getsource(GRPOTrainer.__init__) and grpo_trainer.VLLMGeneration is VLLMGeneration
    )
    assert "LLM(" in inspect.getsource(VLLMGeneration._init_vllm)


def test_loss_still_takes_advantages_per_token_and_has_the_types_that_we_know():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert "advantages.dim() == 1" in source, "TRL's loss no longer takes (B, T) advantages: shapers depend on it"
    assert f"self.loss_type in {list(TOKEN_MEAN_LOSSES)}:".replace("'", '"') in source
    assert all(f'"{name}"' in source for name in TOKEN_SUM_LOSSES)


def test_state_that_a_checkpoint_restores_still_has_these_names():
    source = "".join(
        inspect.getsource(cls) for cls in GRPOTrainer.__mro__[:-1] if cls.__module__.startswith(("trl", "tr"))
    )
    for name in (*RESTORED, "_globalstep_last_logged", "_initial_global_step"):
        assert f"self.{name}" in source, f"TRL or transformers renamed {name}: sayo/training/resume.py saves it"


def test_scoring_pass_still_hangs_on_gradient_accumulation_and_comes_before_rewards():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "self.args.gradient_accumulation_steps % generate_every != 0" in source, (
        "TRL decides otherwise when to run its scoring pass: ReadRollouts._trl_scores must follow"
    )
    assert source.count("gradient_accumulation_steps") <= 3, "the setting is read elsewhere in this method now"
    order = ("old_per_token_logps, _, _ =", "ref_per_token_logps, _, _ =", "self._calculate_rewards(")
    assert sorted(order, key=source.index) == list(order), "rewards come before the scoring passes now"
