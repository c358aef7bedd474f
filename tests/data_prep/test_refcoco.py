"""RefCOCO's pickle: read as plain data, joined with its masks; a hostile one does nothing."""

import os
import pickle
import struct
from pathlib import Path

import pytest

POLYGON = [[100, 40, 180, 40, 180, 120, 100, 120]]


def sentence(number: int, text: str) -> dict:
    return {"sent_id": number, "sent": text, "raw": text.upper(), "tokens": text.split()}


def ref(number: int, split: str, *sentences: dict, **more) -> dict:
    return {"ref_id": number, "ann_id": 70 + number, "category_id": 18, "image_id": 9, "split": split,
            "file_name": "COCO_train2014_000000000009_70.jpg", "sent_ids": [s["sent_id"] for s in sentences],
            "sentences": list(sentences), **more}  # fmt: skip


REFS = [
    ref(0, "train", sentence(1, "dog on the left"), sentence(2, "brown dog")),
    ref(1, "train", sentence(3, "right dog")),
    ref(2, "testA", sentence(4, "the other dog")),
]
ANNOTATIONS = [(70, [100, 40, 80, 80], POLYGON), (71, [200, 50, 40.4, 30], []), (72, [0, 0, 50, 50], [])]
INSTANCES = {
    "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 320, "height": 200}],
    "annotations": [
        {"id": key, "image_id": 9, "category_id": 18, "bbox": box, "segmentation": mask, "iscrowd": 0}
        for key, box, mask in ANNOTATIONS
    ],
    "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
}


def prepare(bench, *refs, split: str = "train", data: bytes | None = None, out: str = "out"):
    bench.picture("COCO_train2014_000000000009.jpg")
    file = bench.root / "refs(unc).p"
    file.write_bytes(data if data is not None else pickle.dumps(list(refs), protocol=0))
    files = "--refs", file, "--instances", bench.json(INSTANCES, "instances.json"), "--images", bench.images
    return bench.prepare("refcoco", *files, "--split", split, out=out)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_expression_is_a_row_with_box_and_mask(bench, protocol: int):
    assert prepare(bench, data=pickle.dumps(REFS, protocol=protocol)).exit_code == 0
    first, second, third = bench.rows()
    assert first["question"] == 'Give the box of "dog on the left" as [x1, y1, x2, y2].'
    assert first["regions"] == second["regions"]
    (region,) = first["regions"]
    assert (region["box"], region["label"], region["role"]) == ([100, 40, 180, 120], "dog", "answer")
    assert region["rle"]
    assert first["solution"] == "[100, 40, 180, 120]"
    assert third["regions"][0]["box"] == [200, 50, 240.4, 80]  # xywh in the file
    assert [row["id"] for row in bench.rows()] == ["sent-1", "sent-2", "sent-3"]
    assert first["images"][0]["path"] == "COCO_train2014_000000000009.jpg"  # not the ref's, which ends with the ann id


def test_python_2_pickle_with_byte_strings(bench):
    text = b"(lp0\n(dp1\nS'split'\np2\nS'train'\np3\nsS'image_id'\nI9\nsS'ann_id'\nL70L\nsS'sentences'\n(lp4\n(dp5\n"
    text += b"S'sent_id'\nI1\nsS'sent'\nS'caf\\xe9 dog'\nsasa."
    assert prepare(bench, data=text).exit_code == 0
    assert 'Give the box of "café dog"' in bench.rows()[0]["question"]


def test_split_chooses_the_expressions(bench):
    assert prepare(bench, *REFS, ref(5, None, sentence(9, "x")), split="testA").exit_code == 0
    (row,) = bench.rows()
    assert (row["id"], row["split"]) == ("sent-4", "testA")
    result = prepare(bench, *REFS, split="testB", out="other")
    assert result.exit_code == 2
    assert "there are: testA, train" in result.output


BAD = {
    prepare: (REFS[1], [
        (ref(0, "train"), "malformed_record"),
        (ref(5, "train", sentence(9, "x")), "object_not_in_instances"),
        (ref(0, "train", sentence(9, "x"), image_id=3), "object_not_in_instances"),
        (ref(0, "train", sentence(9, " ")), "malformed_record"),
        (ref(0, "train", {"sent_id": 9}), "malformed_record"),
        (ref(0, "train", sentence(3, "again")), "duplicate_id"),
        (ref(0, "train", sentence(9, "x"), ann_id=None), "malformed_record"),
        ("ref", "malformed_record"),
    ]),
}  # fmt: skip


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
    result = prepare(bench, data=crafted(marker)[case])
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
    result = prepare(bench, data=data)
    assert (result.exit_code, message in result.output) == (2, True)


def test_a_pickle_needs_the_instances(bench):
    file = bench.root / "refs(unc).p"
    file.write_bytes(pickle.dumps(REFS))
    result = bench.prepare("refcoco", "--refs", file, "--images", bench.images)
    assert (result.exit_code, "--instances" in result.output) == (2, True)
