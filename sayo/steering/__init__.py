"""Training-free steering of attention during `generate`: VRGA's re-aiming and AVAR's score scaling."""

from sayo.steering.aim import AttentionSteering
from sayo.steering.scaling import ScoreScaling

__all__ = ["AttentionSteering", "ScoreScaling"]
