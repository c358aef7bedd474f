"""Read a pickle that holds nothing but lists, dicts, texts and numbers; anything else is refused before it can act.

A pickle is a program. Those of RefCOCO only build plain containers, so a file that asks for anything else (a class, a
function, a call) is not one of them. Its operations are checked one by one first (Python 2's too, which
`pickletools.genops` cannot read), then it is loaded with a `find_class` that finds nothing.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

from data_prep.examples import PrepareError

_LARGEST = 256 << 20  # bytes; the largest of RefCOCO's files has a fifth of that
# Up to a thousand operations of fixed length or of one line; a memo index is bounded because the loader allocates it.
_FIXED = re.compile(
    rb"""(?: [(012Naedtsul)}\]\x85-\x89\x94]  # MARK POP NONE APPEND(S) DICT TUPLE(1-3) SETITEM(S) LIST ...
    | [\x80Khq]. | M.. | [Jj].... | r...\x00 | [G\x95].{8}  # PROTO BININT1 BINGET BINPUT BININT2 BININT ... FRAME
    | p\d{1,7}\n | [Ig][-\d]{1,20}\n | L[-\d]{1,20}L?\n | F[^\n]{1,40}\n | [SV][^\n]*\n){1,1000}""",
    re.DOTALL | re.VERBOSE,
)
# Operations that name the length of what follows: code -> bytes of that length.
_SIZED = {b"U": 1, b"T": 4, b"X": 4, b"B": 4, b"C": 1, b"\x8c": 1, b"\x8d": 8, b"\x8a": 1, b"\x8b": 4}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of the file")


def load(path: Path) -> Any:
    """The value of a plain pickle (of Python 2 or 3).

    Raises:
        PrepareError: the file is too large, broken, or asks for more than plain values; nothing of it was executed.
    """
    size = path.stat().st_size
    if size > _LARGEST:
        raise PrepareError(f"{path} has {size} bytes; no file of RefCOCO is larger than {_LARGEST}")
    data = path.read_bytes()
    try:
        _check(data)
        return _Plain(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise PrepareError(
            f"{path} is refused: {error}. Only plain lists, dicts, texts and numbers are read, and nothing was "
            "executed; fetch the file again from https://github.com/lichengunc/refer"
        ) from None


def _check(data: bytes) -> None:
    """Raise UnpicklingError at the first operation that does more than build plain values."""
    at = 0
    while data[at : at + 1] != b".":  # STOP
        if found := _FIXED.match(data, at):
            at = found.end()
            continue
        code = data[at : at + 1]
        if code not in _SIZED:
            opcode = pickletools.code2op.get(code.decode("latin1"))
            raise pickle.UnpicklingError(f"it holds the operation {opcode.name}" if opcode else "it is no pickle")
        start = at + 1 + _SIZED[code]
        length = int.from_bytes(data[at + 1 : start], "little")
        if start + length > len(data):
            raise pickle.UnpicklingError("it is cut off")
        at = start + length
