"""Read a pickle that holds nothing but lists, dicts, texts and numbers; anything else is refused before it can act.

A pickle is a program. Those of RefCOCO only build plain containers, so the unpickler here knows only the operations
that do so (of Python 2 too): the table by which it executes a file holds no others, and it finds no class.
"""

import gc
import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from data_prep.examples import PrepareError

_PLAIN = """
    PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES
    LIST EMPTY_LIST APPEND APPENDS DICT EMPTY_DICT SETITEM SETITEMS TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3
""".split()


class _PlainOperations(dict):
    def __missing__(self, code: int) -> Any:
        operation = pickletools.code2op.get(chr(code))
        raise pickle.UnpicklingError(f"it holds the operation {operation.name}" if operation else "it is not a pickle")


class _PlainUnpickler(pickle._Unpickler):
    """The standard library's unpickler in Python; from the one in C no operation can be taken away."""

    dispatch = _PlainOperations(
        (ord(operation.code), pickle._Unpickler.dispatch[ord(operation.code)])
        for operation in pickletools.opcodes
        if operation.name in _PLAIN
    )

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load(path: Path) -> Any:
    """The value of a plain pickle (of Python 2 or 3); raises PrepareError for a broken one, and for any other."""
    gc.disable()  # millions of containers are made and none is garbage: looking for it takes most of the time
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise PrepareError(
            f"{path} is refused: {error}. Only plain lists, dicts, texts and numbers are read, and nothing was "
            "executed; fetch the file again from https://github.com/lichengunc/refer"
        ) from None
    finally:
        gc.enable()
