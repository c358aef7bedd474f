"""What we lean on inside TRL. A failure here names the method that moved; mend `sayo/training/grpo.py` with it."""

from __future__ import annotations

import inspect

import pytest
from trl import GRPOTrainer, SFTTrainer

from sayo.training.grpo import RegionGRPOTrainer
from sayo.training.guards import GuardedSteps
from sayo.training.objective import RegionObjective
from sayo.training.resume import ExactResume

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
    "log": ["self", "logs", "start_time"],
}
EXTENDED_BY_MIXINS = {
    ExactResume: {
        "train": ["self", "resume_from_checkpoint"],
        "_save_checkpoint": ["self", "model", "trial"],
        "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
        "_get_train_sampler": ["self"],
        "_run_epoch": ["self", "model", "epoch"],
        "_finalize_training": ["self", "trial", "num_train_samples", "start_time"],
    },
    GuardedSteps: {
        "compute_loss": ["self", "model", "inputs", "return_outputs"],
        "_get_grad_norm": ["self", "model", "grad_norm"],
    },
}
EXTENDED_ON_GRPO = {"training_step": ["self", "model", "inputs"], "_compute_loss": ["self", "model", "inputs"]}
RESTORED = ("_step", "_buffered_inputs", "_metrics", "_logs", "_tr_loss", "_total_loss_scalar")
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


@pytest.mark.parametrize("trainer", [GRPOTrainer, SFTTrainer])
@pytest.mark.parametrize("mixin", EXTENDED_BY_MIXINS)
def test_mixins_extend_what_is_pinned_here(mixin, trainer):
    ours = {name for name, value in vars(mixin).items() if callable(value) and hasattr(trainer, name)}
    assert ours == {*EXTENDED_BY_MIXINS[mixin], "__init__"}
    for name, expected in EXTENDED_BY_MIXINS[mixin].items():
        actual = list(inspect.signature(getattr(trainer, name)).parameters)
        assert actual[: len(expected)] == expected, f"{trainer.__name__}.{name} starts with {actual} now"


def test_the_objective_extends_what_is_pinned_here():
    ours = {name for name, value in vars(RegionObjective).items() if callable(value) and hasattr(GRPOTrainer, name)}
    assert ours == set(EXTENDED_ON_GRPO)
    for name, expected in EXTENDED_ON_GRPO.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters)[:3] == expected


def test_loss_still_takes_advantages_per_token():
    assert "advantages.dim() == 1" in inspect.getsource(GRPOTrainer._compute_loss), (
        "TRL's loss no longer takes (B, T) advantages conditionally: shapers depend on it"
    )


def test_state_that_a_checkpoint_restores_still_has_these_names():
    source = "".join(
        inspect.getsource(cls) for cls in GRPOTrainer.__mro__[:-1] if cls.__module__.startswith(("trl", "tr"))
    )
    for name in (*RESTORED, "_globalstep_last_logged", "_initial_global_step"):
        assert f"self.{name}" in source, f"TRL or transformers renamed {name}: sayo/training/resume.py saves it"


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
