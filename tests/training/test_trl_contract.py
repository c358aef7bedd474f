"""What we lean on inside TRL. A failure here names the method that moved; mend `sayo/training/grpo.py` with it."""

from __future__ import annotations

import inspect

import pytest
from trl import GRPOTrainer

from sayo.training.grpo import RegionGRPOTrainer

OVERRIDDEN = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_get_per_token_logps_and_entropies": [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
    ],
}
CALLED = {"_log_metric": ["self", "name", "value"]}


@pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED])
def test_signature(name):
    method = getattr(GRPOTrainer, name, None)
    assert method is not None, f"TRL has no GRPOTrainer.{name} any more; sayo builds on it"
    expected = {**OVERRIDDEN, **CALLED}[name]
    actual = list(inspect.signature(method).parameters)
    assert actual[: len(expected)] == expected, (
        f"TRL changed GRPOTrainer.{name}: its parameters start with {actual[: len(expected)]}, sayo expects {expected}"
    )


def test_nothing_else_of_trl_is_overridden():
    ours = {name for name, value in vars(RegionGRPOTrainer).items() if callable(value)}
    assert {name for name in ours if hasattr(GRPOTrainer, name)} == {*OVERRIDDEN, "__init__"}


def test_scoring_pass_still_hangs_on_gradient_accumulation():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "self.args.gradient_accumulation_steps % generate_every != 0" in source, (
        "TRL decides otherwise when to run its scoring pass: RegionGRPOTrainer._scoring_pass_forced must follow"
    )
    assert source.count("gradient_accumulation_steps") <= 3, "the setting is read elsewhere in this method now"


def test_scoring_comes_before_rewards():
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert source.index("old_per_token_logps, _, _ =") < source.index("ref_per_token_logps, _, _ =")
    assert source.index("ref_per_token_logps, _, _ =") < source.index("self._calculate_rewards("), (
        "TRL calculates rewards before its scoring passes: the attention would not be there yet"
    )
