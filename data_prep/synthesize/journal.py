"""Every reply that was paid for, on disk as it comes: a run that is killed goes on without paying twice."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any


class JournalError(ValueError):
    """The journal cannot be used; the message says what to do."""


class Journal:
    """`journal.jsonl`: one line per call to a server, appended in one write and flushed to the disk.

    A line holds `id` and `index` of the row, `step`, `role`, `model`, `text`, `truncated`, `prompt_tokens`,
    `completion_tokens`, `counted`, `attempts` and `key`, the digest of the whole request. Calls that failed have
    `error` instead of `text` and `key`, and count only as cost. A last line that was torn when a run was killed is cut
    off. Texts stay on disk; only their places are held in memory.

    Args:
        path: made if it is not there.

    Raises:
        JournalError: another run writes to it, or a line in its middle is broken.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}
        self.spent: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COUNTS, 0))
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = self._load()
        except BlockingIOError:
            os.close(self._file)
            raise JournalError(f"another run writes to {path}; wait for it, or choose another --out") from None
        except JournalError:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        """Number of different calls that were answered."""
        return len(self._places)

    def get(self, key: str) -> dict[str, Any] | None:
        """The answered call with this key, or None."""
        place = self._places.get(key)
        return json.loads(os.pread(self._file, place[1], place[0])) if place else None

    def append(self, record: dict[str, Any]) -> None:
        """Write a call down. Of two answers to one request the first one stays."""
        line = json.dumps(record).encode() + b"\n"  # ASCII: half characters pass unharmed
        with self._lock:
            written = os.write(self._file, line)
            while written < len(line):  # a full disk raises; a short write is finished
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
            self._note(record, self._end, len(line))
            self._end += len(line)

    def _load(self) -> int:
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file, end)
                    break
                try:
                    self._note(json.loads(line), end, len(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise JournalError(
                        f"{self.path}, line {number} is no call ({type(error).__name__}: {error}). Remove that line "
                        "to pay for that call again, or choose another --out."
                    ) from None
                end += len(line)
        return end

    def _note(self, record: dict[str, Any], start: int, length: int) -> None:
        spent = self.spent[record["role"]]
        spent["calls"] += "key" in record
        spent["failed_calls"] += "key" not in record
        spent["prompt_tokens"] += int(record["prompt_tokens"])
        spent["completion_tokens"] += int(record["completion_tokens"])
        spent["calls_without_counts"] += "key" in record and not record["counted"]
        if "key" in record:
            self._places.setdefault(record["key"], (start, length))


_COUNTS = ("calls", "failed_calls", "prompt_tokens", "completion_tokens", "calls_without_counts")
