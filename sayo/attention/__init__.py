"""Attention is data: read once, exactly, inside whatever kernel runs; everything else uses what was captured."""

from typing import TYPE_CHECKING, Any

from sayo.attention.trace import AttentionTrace, Rows

if TYPE_CHECKING:
    from sayo.attention.capture import AttentionCapture
    from sayo.attention.captured import AttentionNotCaptured, CapturedMasses

__all__ = ["AttentionCapture", "AttentionNotCaptured", "AttentionTrace", "CapturedMasses", "Rows"]


def __getattr__(name: str) -> Any:
    """Torch comes with the capture, not with traces: reports and summaries of results need none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sayo.attention import capture, captured

    return getattr(capture if name == "AttentionCapture" else captured, name)
