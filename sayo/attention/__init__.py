"""Attention is data: read once, exactly, inside whatever kernel runs; everything else uses what was captured."""

from sayo.attention.capture import AttentionCapture
from sayo.attention.captured import AttentionNotCaptured, CapturedMasses
from sayo.attention.trace import AttentionTrace, Rows

__all__ = ["AttentionCapture", "AttentionNotCaptured", "AttentionTrace", "CapturedMasses", "Rows"]
