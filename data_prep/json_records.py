"""Read the records of a large JSON file one by one, so that 1.5 GB of questions need no 10 GB of memory.

Python's own decoder is used (not ijson): annotation files hold `NaN`, which stricter parsers refuse for the whole
file, and every key must be seen, because a plain `json.load` keeps only the last of two records with one id.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.examples import PrepareError

_CHUNK = 1 << 20
_SPACE = " \t\r\n"
_LONGEST_RECORD = 1 << 28  # characters: a "record" longer than this is a broken file, not a record
_DECODER = json.JSONDecoder()


def list_files(spec: str | Path, what: str) -> list[Path]:
    """The files that `spec` names: one file, a folder of .json files, or a quoted glob; sorted by name.

    Raises:
        PrepareError: nothing is there.
    """
    path = Path(spec)
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.json")) if path.is_dir() else [Path(name) for name in sorted(glob.glob(str(spec)))]
    files = [file for file in found if file.is_file()]
    if not files:
        raise PrepareError(f"no {what} at {spec}: give a JSON file, a folder of JSON files or a quoted glob")
    return files


class _Buffer:
    """The unread text of a file: `text[at:]` and whatever is still on disk."""

    def __init__(self, path: Path):
        self.path = path
        self.file = path.open(encoding="utf-8-sig")
        self.text = ""
        self.at = 0

    def fail(self, problem: str) -> PrepareError:
        return PrepareError(f"{self.path} is not a usable JSON file: {problem}")

    def grow(self) -> bool:
        """Read on; each time at least as much as is still unread, so that long records cost linear time."""
        rest = self.text[self.at :]
        try:
            more = self.file.read(max(_CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            raise self.fail(f"not UTF-8 text ({error.reason} at byte {error.start})") from None
        if more:
            self.text, self.at = rest + more, 0
        return bool(more)

    def peek(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow():
                return ""

    def expect(self, allowed: str) -> str:
        found = self.peek()
        if not found or found not in allowed:
            wanted = " or ".join(repr(character) for character in allowed)
            raise self.fail(f"expected {wanted}, found {found!r}" if found else "the file ends in the middle")
        self.at += 1
        return found

    def value(self) -> Any:
        """Decode the next value. What follows a number must be seen, or `12|34` and `1|e+5` would be cut in two."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except (json.JSONDecodeError, RecursionError) as error:
                if len(self.text) - self.at > _LONGEST_RECORD or not self.grow():
                    raise self.fail(str(error)) from None
                continue
            if end + 3 > len(self.text) and self.grow():
                continue
            self.at = end
            return value


def iter_records(path: Path) -> Iterator[tuple[str | None, Any]]:
    """Yield (key, record) of a top-level `{"key": record, ...}`, or (None, record) of a top-level list.

    Raises:
        PrepareError: the file is not JSON of that form or ends in the middle.
    """
    buffer = _Buffer(path)
    with buffer.file:
        if not buffer.peek():
            raise buffer.fail("it is empty")
        keyed = buffer.expect("{[") == "{"
        close = "}" if keyed else "]"
        if buffer.peek() == close:
            buffer.expect(close)
        else:
            while True:
                key = None
                if keyed:
                    key = buffer.value()
                    if not isinstance(key, str):
                        raise buffer.fail(f"expected a record's id in quotes, found {key!r}")
                    buffer.expect(":")
                yield key, buffer.value()
                if buffer.expect("," + close) == close:
                    break
        if buffer.peek():
            raise buffer.fail("there is text after the end of the records")
