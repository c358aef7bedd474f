"""Reward functions held to what TRL expects of them: one finite number, or None, for every completion, in time."""

import asyncio
import functools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from trl.trainer.utils import is_async_callable

from sayo.errors import SayoError
from sayo.training.guards import NonFiniteError

LARGEST = torch.finfo(torch.float32).max


class RewardError(SayoError, ValueError):
    """A reward function returned something else than a number or None for every completion, or took too long."""

    exit_status = 1


def checked_rewards(functions: Sequence[Any], names: Sequence[str], seconds: float | None) -> list[Any]:
    """TRL's reward functions, coroutine functions among them, each of which stops the run when it goes wrong.

    TRL takes NaN for "not applicable" and would continue without a word; so it would with 1e39, infinite in float32.
    Reward models (`nn.Module`) are left to TRL. What is returned here raises NonFiniteError and RewardError.

    Args:
        seconds: how long a call may take, or None. A function that sets an alarm of its own or never runs Python is
            noticed when it returns. Outside of a main thread on Unix only coroutines have a limit.
    """
    pairs = zip(functions, names, strict=True)
    return [f if isinstance(f, nn.Module) else _checked(f, name, seconds) for f, name in pairs]


def _checked(function: Callable, name: str, seconds: float | None) -> Callable:
    if not is_async_callable(function):

        @functools.wraps(function)
        def checked(*args, **kwargs):
            with _time_limit(name, seconds):
                return _numbers(name, function(*args, **kwargs))

    else:

        @functools.wraps(function)
        async def checked(*args, **kwargs):
            start = time.monotonic()
            try:
                return _numbers(name, await asyncio.wait_for(function(*args, **kwargs), seconds))
            except asyncio.TimeoutError:
                if seconds is None or time.monotonic() - start < seconds:
                    raise  # the function's own
                raise _too_late(name, seconds) from None

    checked.__name__ = name
    return checked


def _numbers(name: str, returned: Any) -> list[float | None]:
    try:
        rewards = iter([] if isinstance(returned, (str, bytes, Mapping)) else returned)
    except TypeError:  # None, a number, a tensor without dimensions
        rewards = None
    if rewards is None or isinstance(returned, (str, bytes, Mapping)):
        raise RewardError(
            f"The reward function {name!r} returned {returned!r:.60}; it must return a list with one number (or None, "
            "where it does not apply) for every completion."
        )
    numbers = []
    for index, reward in enumerate(rewards):
        if isinstance(reward, (str, bytes)) or not (reward is None or hasattr(reward, "__float__")):
            raise RewardError(
                f"The reward function {name!r} returned {reward!r:.60} for completion {index}: no number."
            )
        numbers.append(None if reward is None else float(reward))
    if bad := [i for i, number in enumerate(numbers) if number is not None and not abs(number) <= LARGEST]:
        raise NonFiniteError(
            f"The reward function {name!r} returned {numbers[bad[0]]} for completion {bad[0]}"
            f"{' (infinite in float32)' if math.isfinite(numbers[bad[0]]) else ''}"
            f"{f' and {len(bad) - 1} more' if len(bad) > 1 else ''}. Return None where it does not apply."
        )
    return numbers


class _Late(BaseException):
    """Not an Exception: many a reward function catches those, one completion at a time."""


@contextmanager
def _time_limit(name: str, seconds: float | None) -> Iterator[None]:
    is_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not is_main or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise _Late

    start, before = time.monotonic(), signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Late:
        raise _too_late(name, seconds) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if time.monotonic() - start > seconds:
        raise _too_late(name, seconds)


def _too_late(name: str, seconds: float) -> RewardError:
    return RewardError(
        f"The reward function {name!r} took longer than trainer.reward_timeout={seconds:g} seconds for one batch. "
        "Give what it waits for (a judge, a pattern) a limit of its own, or raise the limit; null is none."
    )
