"""Read the records of a large JSON file one by one, so that 1.5 GB of questions need no 10 GB of memory.

Python's own decoder, not ijson: annotation files hold `NaN`, for which ijson refuses the whole file, and its C
back-end took twice as long for GQA's questions. Every key is seen, where `json.load` keeps only the last of two equal
ones.
"""

import glob
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from data_prep.examples import PrepareError

_CHUNK = 1 << 20
_BLANKS = re.compile(r"[ \t\r\n]*")
_LONGEST_RECORD = 1 << 25  # characters: a "record" longer than this is a broken file, not a record
_LONGEST_LINE = 1 << 24  # bytes
_DECODER = json.JSONDecoder()


def list_files(spec: str | Path, what: str, where: str, suffix: str = ".json") -> list[Path]:
    """The files that `spec` names: one file, a folder of files with that suffix, or a quoted glob; sorted by name.

    Raises:
        PrepareError: nothing is there; it says `what` is missing and `where` people usually get it.
    """
    path = Path(spec)
    if path.is_file():
        return [path]
    paths = path.glob(f"*{suffix}") if path.is_dir() else map(Path, glob.glob(str(spec)))
    files = sorted(file for file in paths if file.is_file())
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


def iter_records(path: Path) -> Iterator[tuple[str | None, Any]]:
    """Yield (key, record) of a top-level `{"key": record, ...}`, or (None, record) of a top-level list.

    Raises:
        PrepareError: the file is not JSON of that form or ends in the middle.
    """
    with _reading(path) as reader:
        for key in reader.keys("{["):
            yield key, reader.value()[0]


def iter_members(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield the members of a top-level object whose values are long lists (COCO's files); raises as `iter_records`.

    `{"images": [a, b], "info": c}` gives ("images", a, text of a), ("images", b, text of b), ("info", c, text of c).
    """
    with _reading(path) as reader:
        for name in reader.keys("{"):
            if reader.peek() == "[":
                for _ in reader.keys("["):
                    yield name, *reader.value()
            else:
                yield name, *reader.value()


@contextmanager
def _reading(path: Path) -> Iterator["_Reader"]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = _Reader(path, file)
        yield reader
        if reader.peek():
            raise reader.fail("there is text after the end of the records")


class _Reader:
    """The unread text of a JSON file: `text[at:]` and whatever is still on disk."""

    def __init__(self, path: Path, file: TextIO):
        self.path, self.file = path, file
        self.text, self.at = "", 0

    def fail(self, problem: str) -> PrepareError:
        return PrepareError(f"{self.path} is not a usable JSON file: {problem}")

    def more(self) -> bool:
        """Read on, at least as much as is still unread, so that long records cost linear time; False at the end."""
        rest = self.text[self.at :]
        try:
            data = self.file.read(max(_CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            raise self.fail(f"not UTF-8 text ({error.reason})") from None
        if data:
            self.text, self.at = rest + data, 0
        return bool(data)

    def peek(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            self.at = _BLANKS.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def expect(self, allowed: str) -> str:
        character = self.peek()
        if not character or character not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise self.fail(f"expected {wanted}, got {character!r}" if character else "it is empty or ends too early")
        self.at += 1
        return character

    def keys(self, brackets: str) -> Iterator[Any]:
        """The key (None in a list) of each member of what starts here; the caller reads the value behind it."""
        close = "}" if self.expect(brackets) == "{" else "]"
        if self.peek() == close:
            self.at += 1
            return
        while True:
            key = None
            if close == "}":
                key, _ = self.value()
                if not isinstance(key, str):
                    raise self.fail(f"expected a record's id in quotes, got {key!r}")
                self.expect(":")
            yield key
            if self.expect("," + close) == close:
                return

    def value(self) -> tuple[Any, str]:
        """The next value, decoded and as it stands in the file."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
                if len(self.text) - self.at > _LONGEST_RECORD or not self.more():
                    raise self.fail(str(error)) from None
                continue
            # what follows a number must be seen, or `12|34` and `1|e+5` would be cut in two
            if end + 3 > len(self.text) and self.more():
                continue
            text, self.at = self.text[self.at : end], end
            return value, text


def iter_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) of a file with one JSON value a line; blank lines are passed over.

    A line that is not JSON gives a `ValueError` as its value: one bad line costs no other.
    """
    with path.open("rb") as handle:
        for number in count(1):
            line = handle.readline(_LONGEST_LINE)
            if not line:
                return
            if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = handle.readline(_LONGEST_LINE)
                yield number, ValueError(f"the line is longer than {_LONGEST_LINE} bytes")
            elif line.strip():
                try:
                    value = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:
                    value = ValueError(f"not JSON: {error}")
                yield number, value
