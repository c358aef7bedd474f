"""Measures of visual attention: pure functions of arrays or of an `AttentionTrace`, one family per file."""
