"""Which ids occurred before, for any number of them: eight bytes an id instead of a set of strings."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np


class SeenIds:
    """Remembers ids by a 64-bit hash (two of 14 million ids collide with a probability of 5e-6).

    Hashes lie in sorted runs whose lengths double, so that asking and adding stay cheap: 14.3 million ids take 115 MB.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def check(self, ids: Sequence[str]) -> list[bool]:
        """Add `ids`; True for each that was there already, earlier in this call included."""
        digests = b"".join(blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest() for one in ids)
        hashes = np.frombuffer(digests, np.uint64)
        first = np.unique(hashes, return_index=True)[1]
        new = np.zeros(len(hashes), bool)
        new[first] = True
        for run in self._runs:
            at = np.searchsorted(run, hashes)
            new &= run[np.minimum(at, len(run) - 1)] != hashes
        self._add(np.sort(hashes[new]))
        return (~new).tolist()

    def _add(self, run: np.ndarray) -> None:
        if not len(run):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            merged = np.concatenate([self._runs.pop(), self._runs.pop()])
            merged.sort(kind="stable")
            self._runs.append(merged)
