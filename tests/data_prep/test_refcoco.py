"""RefCOCO's pickle: read as plain data, joined with its masks; a hostile one does nothing."""

import os
import pickle
import struct
from pathlib import Path

import pytest

from tests.data_prep.source_files import CASES, prepare

REFS = CASES["refcoco"]["records"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_gives_every_expression_with_its_mask(bench, protocol: int):
    assert prepare(bench, "refcoco", pickle.dumps(REFS, protocol=protocol)).exit_code == 0
    rows = bench.rows()
    assert [row["id"] for row in rows] == ["sent-1", "sent-2", "sent-3"]
    assert rows[0]["regions"][0]["rle"]


def test_python_2_pickle_with_byte_strings(bench):
    text = b"(lp0\n(dp1\nS'split'\np2\nS'train'\np3\nsS'image_id'\nI9\nsS'ann_id'\nL70L\nsS'sentences'\n(lp4\n(dp5\n"
    text += b"S'sent_id'\nI1\nsS'sent'\nS'caf\\xe9 dog'\nsasa."
    assert prepare(bench, "refcoco", text).exit_code == 0
    assert 'Give the box of "café dog"' in bench.rows()[0]["question"]


def test_split_chooses_the_expressions(bench):
    refs = [*REFS, {**REFS[0], "split": None, "ann_id": 75}]
    assert prepare(bench, "refcoco", refs, "--split", "testA").exit_code == 0
    (row,) = bench.rows()
    assert (row["id"], row["split"]) == ("sent-4", "testA")
    result = prepare(bench, "refcoco", REFS, "--split", "testB", out="other")
    assert result.exit_code == 2
    assert "there are: testA, train" in result.output


class Evil:
    """Unpickling it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def crafted(path: Path) -> dict[str, bytes]:
    command = f"touch {path}".encode()
    return {
        "reduce": pickle.dumps(Evil(path)),
        "reduce, protocol 0": pickle.dumps([{"a": Evil(path)}], protocol=0),
        "global": b"cos\nsystem\n(S'" + command + b"'\ntR.",
        "inst": b"(S'" + command + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + command + b"'\no.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(command)]) + command + b"\x85R.",
        "extension": b"\x80\x02\x82\x01.",
        "build": b"}}b.",
        "persistent": b"Pid\n.",
        "class of its own": pickle.dumps(Path("x")),
        "text of 4 GB": b"\x80\x02X" + struct.pack("<I", 2**32 - 2) + b"abc.",
        "bytes of 16 GB": b"\x80\x05\x96" + struct.pack("<Q", 2**34) + b"abc.",
        "cut off": pickle.dumps(REFS)[:-40],
        "empty": b"",
        "no pickle": b"\xff\xd8\xff\xe0 a picture",
        "bytearray": pickle.dumps(bytearray(b"x" * 10), protocol=5),
        "set": pickle.dumps({1, 2}, protocol=4),
    }


@pytest.mark.parametrize("case", crafted(Path("x")))
def test_a_crafted_pickle_fails_without_executing_anything(bench, case: str):
    marker = bench.root / "executed"
    result = prepare(bench, "refcoco", crafted(marker)[case])
    assert result.exit_code == 2
    assert "Traceback" not in result.output and "is refused" in result.output
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02]r" + struct.pack("<I", 2**32 - 2) + b".", "there are: none"),  # the C unpickler takes 64 GB for it
        (pickle.dumps({"a": 1}), "holds a dict"),
    ],
)
def test_plain_pickles_of_other_things_are_one_line(bench, data: bytes, message: str):
    result = prepare(bench, "refcoco", data)
    assert (result.exit_code, message in result.output) == (2, True)


def test_a_pickle_needs_the_instances(bench):
    file = bench.root / "refs(unc).p"
    file.write_bytes(pickle.dumps(REFS))
    result = bench.prepare("refcoco", "--refs", file, "--images", bench.images)
    assert (result.exit_code, "--instances" in result.output) == (2, True)
