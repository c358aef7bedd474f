"""Supervised tuning: TRL's trainer with the same checkpoints and guards as the others."""

from __future__ import annotations

from trl import SFTTrainer

from sayo.training.guards import GuardedSteps
from sayo.training.resume import ExactResume


class ResumableSFTTrainer(ExactResume, GuardedSteps, SFTTrainer):
    """TRL's [`~trl.SFTTrainer`]; a killed run goes on from the newest complete checkpoint."""
