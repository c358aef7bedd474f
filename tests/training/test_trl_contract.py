"""What we lean on inside TRL. A failure here names the method that moved; fix `sayo/training/` with it."""

import inspect
import pkgutil
from pathlib import Path

import pytest
import yaml
from trl import GRPOTrainer, SFTTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from sayo.training.engine import SamePrompts
from sayo.training.guards import GuardedSteps
from sayo.training.objective import OpenCaptures
from sayo.training.resume import ExactResume

TABLE = yaml.safe_load(Path(__file__).with_name("trl_contract.yaml").read_text())
EXTENDED = {pkgutil.resolve_name(name): methods for name, methods in TABLE.items()}
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
