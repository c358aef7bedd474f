"""Attention is data: read once, exactly, inside whatever kernel runs; everything else consumes that reading."""

from sayo.attention.capture import AttentionCapture
from sayo.attention.reading import AttentionNotCaptured, Reading
from sayo.attention.trace import AttentionTrace, Rows, select_rows

__all__ = ["AttentionCapture", "AttentionNotCaptured", "AttentionTrace", "Reading", "Rows", "select_rows"]
