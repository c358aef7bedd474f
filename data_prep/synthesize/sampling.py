"""Draw again when a check fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from data_prep.examples import RejectError

_Drawn = TypeVar("_Drawn")
_FINAL = ("server_error", "image")  # another sample would not help


def first_good(tries: int, draw: Callable[[int], _Drawn]) -> _Drawn:
    """`draw(0)`, or the first of `draw(1)`, ... that passes its checks.

    Raises:
        RejectError: of the last sample, or at once where another would not help.
    """
    for sample in range(tries - 1):
        try:
            return draw(sample)
        except RejectError as error:
            if error.reason in _FINAL:
                raise
    return draw(max(tries, 1) - 1)
