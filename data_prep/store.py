"""Records and ids in a temporary database: annotation files of any size need little memory."""

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """An empty temporary database, removed at the end; it fails with `sqlite3.Error` when its disk is full."""
    with tempfile.TemporaryDirectory(prefix="sayo-prepare-") as folder:
        connection = sqlite3.connect(Path(folder) / "records.sqlite", isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA temp_store = FILE")
            connection.execute("PRAGMA cache_size = -65536")  # 64 MiB
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()


def as_json(value: Any) -> str:
    """JSON without blanks, ASCII only: text that is not Unicode ("\\ud800") passes through unharmed."""
    return _ENCODE(value)


class RecordStore:
    """key -> JSON value, in a table of a `database()`; of two records with one key the later stays."""

    def __init__(self, connection: sqlite3.Connection, records: Iterable[tuple[str, Any]]):
        self._connection = connection
        connection.execute("CREATE TABLE record (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        rows = ((as_json(key), as_json(value)) for key, value in records)
        connection.executemany("INSERT OR REPLACE INTO record VALUES (?, ?)", rows)
        self.get = lru_cache(maxsize=256)(self._get)

    def _get(self, key: str) -> Any:
        """The record, or None where there is none. The same object may be returned again: do not change it."""
        row = self._connection.execute("SELECT value FROM record WHERE key = ?", (as_json(key),)).fetchone()
        return None if row is None else json.loads(row[0])


class GroupedValues:
    """The values of (key, value) pairs, those of one key together, in the order in which they and the keys came.

    A value whose key is None stands alone. Values wait in a table of a `database()`; `len` is their number.
    """

    def __init__(self, connection: sqlite3.Connection, values: Iterable[tuple[Any, bytes]]):
        self._connection, self._count = connection, 0
        connection.execute("CREATE TABLE first (key TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID")
        connection.execute("CREATE TABLE waiting (place INTEGER, value BLOB)")
        for place, (key, value) in enumerate(values):
            written = f"#{place}" if key is None else as_json(key)
            connection.execute("INSERT OR IGNORE INTO first VALUES (?, ?)", (written, place))
            connection.execute("INSERT INTO waiting SELECT place, ? FROM first WHERE key = ?", (value, written))
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def first(self, most: int) -> Iterator[bytes]:
        """Those of the first `most` pairs."""
        chosen = "SELECT value FROM waiting WHERE rowid <= ? ORDER BY place, rowid"
        yield from (value for (value,) in self._connection.execute(chosen, (most,)))


class SeenIds:
    """Which ids occurred before, for any number of them."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection
        connection.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, row_id: str) -> bool:
        """Remember an id; False if it was there already."""
        insert = self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (as_json(row_id),))
        return insert.rowcount == 1
