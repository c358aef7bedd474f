"""Read the records of a large JSON file one by one, so that 1.5 GB of questions need no 10 GB of memory.

Python's own decoder is used (not ijson): annotation files hold `NaN`, which stricter parsers refuse for the whole
file, and every key must be seen, because a plain `json.load` keeps only the last of two records with one id.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from data_prep.examples import PrepareError

_CHUNK = 1 << 20
_SPACE = " \t\r\n"
_LONGEST_RECORD = 1 << 25  # characters: a "record" longer than this is a broken file, not a record
_LONGEST_LINE = 1 << 24  # bytes
_DECODER = json.JSONDecoder()


class BytesRead:
    """How much this process has read, as a line for a terminal: gigabytes of annotations take minutes."""

    def __init__(self) -> None:
        self.count = 0

    def __rich__(self) -> str:
        return f"reading the annotations ({self.count / 1e6:,.0f} MB)"


BYTES_READ = BytesRead()


def list_files(spec: str | Path, what: str, where: str, suffix: str = ".json") -> list[Path]:
    """The files that `spec` names: one file, a folder of files with that suffix, or a quoted glob; sorted by name.

    Args:
        what: what is missing, for the message.
        where: where people usually get it, for the message.

    Raises:
        PrepareError: nothing is there.
    """
    path = Path(spec)
    if path.is_file():
        return [path]
    found = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [Path(name) for name in sorted(glob.glob(str(spec)))]
    files = [file for file in found if file.is_file()]
    if not files:
        raise PrepareError(f"no {what} at {spec}: give a {suffix} file, a folder of them or a quoted glob. {where}")
    return files


def digest_of(files: Iterable[Path]) -> str:
    """Digest of the contents of files: what a finished shard must share to be kept."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def count_and_digest(files: Iterable[Path]) -> tuple[int, str]:
    """(number of records in JSON files, digest of their contents), in one reading."""
    digest = hashlib.sha256()
    records = sum(1 for file in files for _ in iter_records(file, digest))
    return records, digest.hexdigest()[:16]


class _Buffer:
    """The unread text of a file: `text[at:]` and whatever is still on disk."""

    def __init__(self, path: Path, digest: Any = None):
        self.path = path
        self.file = path.open("rb")
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.digest = digest
        self.text = ""
        self.at = 0

    def fail(self, problem: str) -> PrepareError:
        return PrepareError(f"{self.path} is not a usable JSON file: {problem}")

    def grow(self) -> bool:
        """Read on; each time at least as much as is still unread, so that long records cost linear time."""
        rest = self.text[self.at :]
        data = self.file.read(max(_CHUNK, len(rest)))
        BYTES_READ.count += len(data)
        if self.digest is not None:
            self.digest.update(data)
        try:
            more = self.decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise self.fail(f"not UTF-8 text ({error.reason} before byte {self.file.tell()})") from None
        if data:
            self.text, self.at = rest + more, 0
        return bool(data)

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

    def key(self) -> str:
        """The next key and its colon."""
        key = self.value()
        if not isinstance(key, str):
            raise self.fail(f"expected a record's id in quotes, found {key!r}")
        self.expect(":")
        return key

    def value(self) -> Any:
        """Decode the next value."""
        return self.value_and_text()[0]

    def value_and_text(self) -> tuple[Any, str]:
        """Decode the next value; also as it stands in the file.

        What follows a number must be seen, or `12|34` and `1|e+5` would be cut in two.
        """
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
                if len(self.text) - self.at > _LONGEST_RECORD or not self.grow():
                    raise self.fail(str(error)) from None
                continue
            if end + 3 > len(self.text) and self.grow():
                continue
            text, self.at = self.text[self.at : end], end
            return value, text


def iter_records(path: Path, digest: Any = None) -> Iterator[tuple[str | None, Any]]:
    """Yield (key, record) of a top-level `{"key": record, ...}`, or (None, record) of a top-level list.

    Args:
        digest: a hashlib object that sees every byte of the file.

    Raises:
        PrepareError: the file is not JSON of that form or ends in the middle.
    """
    buffer = _Buffer(path, digest)
    with buffer.file:
        if not buffer.peek():
            raise buffer.fail("it is empty")
        for key, value, _ in _members(buffer, buffer.expect("{[") == "{"):
            yield key, value
        if buffer.peek():
            raise buffer.fail("there is text after the end of the records")


def iter_members(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield the members of a top-level object whose values are long lists, as in COCO's files.

    `{"images": [a, b], "info": c}` gives ("images", a, text of a), ("images", b, text of b), ("info", c, text of c).

    Raises:
        PrepareError: as for `iter_records`.
    """
    buffer = _Buffer(path)
    with buffer.file:
        if not buffer.peek():
            raise buffer.fail("it is empty")
        buffer.expect("{")
        if buffer.peek() == "}":
            buffer.expect("}")
        else:
            while True:
                key = buffer.key()
                if buffer.peek() == "[":
                    buffer.expect("[")
                    for _, element, text in _members(buffer, keyed=False):
                        yield key, element, text
                else:
                    yield key, *buffer.value_and_text()
                if buffer.expect(",}") == "}":
                    break
        if buffer.peek():
            raise buffer.fail("there is text after the end of the records")


def _members(buffer: _Buffer, keyed: bool) -> Iterator[tuple[str | None, Any, str]]:
    """(key or None, value, its text) of the object or list whose opening bracket was just read."""
    close = "}" if keyed else "]"
    if buffer.peek() == close:
        buffer.expect(close)
        return
    while True:
        key = buffer.key() if keyed else None
        yield key, *buffer.value_and_text()
        if buffer.expect("," + close) == close:
            return


def iter_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) of a file with one JSON value a line; blank lines are passed over.

    A line that is no JSON gives a `ValueError` as its value: one bad line costs no other.
    """
    with path.open("rb") as handle:
        for index in count(1):
            line = handle.readline(_LONGEST_LINE)
            if not line:
                return
            BYTES_READ.count += len(line)
            if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = handle.readline(_LONGEST_LINE)
                yield index, ValueError(f"the line is longer than {_LONGEST_LINE} bytes")
            elif line.strip():
                yield index, _value_of(line)


def _value_of(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return ValueError(f"no JSON: {error}")
