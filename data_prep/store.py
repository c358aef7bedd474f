"""Records and ids in a temporary database: annotation files of any size need little memory."""

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
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


def lookup_of(connection: sqlite3.Connection, records: Iterable[tuple[str, Any]]) -> Callable[[str], Any]:
    """key -> JSON value, by a table of a `database()`; of two records with one key the later stays.

    The function gives None where there is none, and may give one object several times: do not change it.
    """
    connection.execute("CREATE TABLE record (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
    rows = ((as_json(key), as_json(value)) for key, value in records)
    connection.executemany("INSERT OR REPLACE INTO record VALUES (?, ?)", rows)

    @lru_cache(maxsize=256)
    def lookup(key: str) -> Any:
        row = connection.execute("SELECT value FROM record WHERE key = ?", (as_json(key),)).fetchone()
        return None if row is None else json.loads(row[0])

    return lookup


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


def newness_of(connection: sqlite3.Connection) -> Callable[[str], bool]:
    """A function that tells whether it sees an id for the first time, for any number of them."""
    connection.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
    add = "INSERT OR IGNORE INTO seen VALUES (?)"
    return lambda row_id: connection.execute(add, (as_json(row_id),)).rowcount == 1
