"""What the ranks of a run agree on at its start: one folder, one checkpoint, and who is missing.

torch's collectives wait half an hour without a name. Here everything goes through the store in which the ranks met, so
that a rank that does not come, or fails, is named on all the others.
"""

import itertools
import json
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from sayo.errors import SayoError

_meetings = itertools.count()


class RankError(SayoError, RuntimeError):
    """A rank is missing, has failed, or sees another folder than the rest."""

    exit_status = 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def together(work: Callable[[], Any], limit: float) -> list[Any]:
    """Every rank's result of `work()` (what JSON holds), by rank; all ranks call it, in the same order.

    Args:
        limit: seconds to wait for the others, `args.ddp_timeout` in a run.

    Raises:
        RankError: ranks that did not come in time, or whose work failed, with their machines. A rank whose own work
            failed raises that error.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [work()]
    store, meeting = _get_default_store(), next(_meetings)
    own, ranks = None, range(dist.get_world_size())
    _write(store, f"machine/{rank()}", socket.gethostname())
    try:
        mine = {"value": work()}
    except Exception as error:
        own, mine = error, {"error": f"{type(error).__name__}: {error}"}
    _write(store, f"{meeting}/{rank()}", mine)
    if own is not None:
        raise own
    _wait(store, [f"{meeting}/{r}" for r in ranks], limit)
    results = [_read(store, f"{meeting}/{r}") for r in ranks]
    for r, result in enumerate(results):
        if "error" in result:
            raise RankError(f"Rank {r} (on {_read(store, f'machine/{r}')}) stopped the start: {result['error']}")
    return [result["value"] for result in results]


def of_rank_0(work: Callable[[], Any], limit: float) -> Any:
    """What `work()` gives on rank 0, on every rank."""
    return together(work if rank() == 0 else lambda: None, limit)[0]


def check_shared(folder: Path, limit: float) -> None:
    """RankError where the ranks do not share `folder`: each writes a token, and rank 0 looks for all of them."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    word = of_rank_0(lambda: secrets.token_hex(4), limit)
    tokens = [folder / f".{word}-{r}" for r in range(dist.get_world_size())]

    def write() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        tokens[rank()].touch()
        return socket.gethostname()

    try:
        machines = together(write, limit)
        unseen = of_rank_0(lambda: [r for r, token in enumerate(tokens) if not token.exists()], limit)
    finally:
        tokens[rank()].unlink(missing_ok=True)
    if unseen:
        where = ", ".join(f"{r} (on {machines[r]})" for r in unseen)
        raise RankError(
            f"Rank 0 (on {machines[0]}) does not see what rank {where} writes into trainer.output_dir={folder}: every "
            "rank writes its part of a checkpoint there. Give a folder on storage that all machines share, by its "
            "absolute path: trainer.output_dir=/SHARED/RUN"
        )


def _wait(store: Any, keys: list[str], limit: float) -> None:
    deadline = time.monotonic() + limit
    while not store.check([f"sayo/{key}" for key in keys]):
        if time.monotonic() > deadline:
            missing = [r for r, key in enumerate(keys) if not store.check([f"sayo/{key}"])]
            met = {r: f"on {_read(store, f'machine/{r}')}" for r in missing if store.check([f"sayo/machine/{r}"])}
            names = ", ".join(f"{r} ({met.get(r, 'never met')})" for r in missing)
            raise RankError(
                f"After {limit:g} seconds (trainer.ddp_timeout) these ranks had not come to the start: {names}. "
                "Their logs say why; then start the same command on all machines again."
            )
        time.sleep(0.1)


def _write(store: Any, key: str, value: Any) -> None:
    store.set(f"sayo/{key}", json.dumps(value))


def _read(store: Any, key: str) -> Any:
    return json.loads(store.get(f"sayo/{key}"))
