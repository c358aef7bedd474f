"""RefCOCO, RefCOCO+ and RefCOCOg (https://github.com/lichengunc/refer): expressions that mean one object each.

Two forms: the original `refs(unc).p` with `instances.json` (masks; boxes xywh), and JSON lines with `img_path`,
`expression` and `bbox` (boxes xyxy). The question asks for the object's box, the answer is the box in whole pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.examples import ANSWER_WEIGHT, Example, PrepareError, Region, Reject, RejectError
from data_prep.fields import (
    as_record,
    box_of_xywh,
    box_of_xyxy,
    box_text,
    check_pixels,
    identifier,
    image_size,
    text,
)
from data_prep.json_records import digest_of, iter_lines, iter_members
from data_prep.sources import plain_pickle
from data_prep.store import RecordStore, database

LICENSE = "CC-BY-4.0"
WHERE = (
    "refcoco.zip, refcoco+.zip and refcocog.zip (refs(unc).p, refs(google).p, refs(umd).p and instances.json) are "
    "linked at https://github.com/lichengunc/refer; the images are COCO's train2014.zip at "
    "https://cocodataset.org/#download"
)
_SAME_SPLIT = {"validation": "val", "valid": "val", "dev": "val"}


def ask(expression: str) -> str:
    """The question that is made of an expression."""
    return f'Give the box of "{expression}" as [x1, y1, x2, y2] in pixels of the image.'


class RefcocoSource:
    """One example for each expression of one split.

    Args:
        refs: `refs(*).p`, or a .jsonl file.
        instances: `instances.json` beside the pickle; not for .jsonl.
        split: the split whose expressions are taken: train, val, testA, testB or test.

    Raises:
        PrepareError: a file is missing or refused, or there is no such split in it.
    """

    name = "refcoco"

    def __init__(self, refs: Path, instances: Path | None, split: str):
        self.refs, self.instances, self.split = refs, instances, split
        if not refs.is_file():
            raise PrepareError(f"--refs: no file {refs}. {WHERE}")
        self._lines = refs.suffix == ".jsonl"
        if not self._lines and (instances is None or not instances.is_file()):
            raise PrepareError(f"--instances: no file {instances or 'given'}. It lies beside {refs.name}. {WHERE}")
        splits: dict[str, int] = {}
        self._records = [] if self._lines else _refs(refs)
        for _, record in self._all():
            found = _split_of(record)
            splits[found] = splits.get(found, 0) + 1
        self._count = splits.get(_SAME_SPLIT.get(split, split), 0) + splits.get("", 0)
        if self._count == 0:
            there = ", ".join(sorted(splits)) or "none"
            raise PrepareError(f"--split: {refs} holds no expression of the split {split!r}; there are: {there}")

    def __len__(self) -> int:
        return self._count

    def settings(self) -> dict[str, Any]:
        files = {"--refs": digest_of([self.refs])}
        return files if self.instances is None else {**files, "--instances": digest_of([self.instances])}

    def __iter__(self) -> Iterator[Example | Reject]:
        with database() as connection:
            objects = RecordStore(connection, _objects(self.instances) if self.instances else ())
            for row_id, record in self._all():
                if _split_of(record) not in ("", _SAME_SPLIT.get(self.split, self.split)):
                    continue
                try:
                    if isinstance(record, ValueError):
                        raise RejectError("malformed_record", str(record))
                    build = _of_line if self._lines else _of_sentence
                    yield build(row_id, as_record(record), objects)
                except RejectError as error:
                    yield Reject(row_id, error.reason, f"{error.detail} ({self.refs.name})")

    def _all(self) -> Iterator[tuple[str, Any]]:
        """(id, record) of every expression; a record of the pickle is a ref with one of its sentences."""
        if self._lines:
            for line, record in iter_lines(self.refs):
                yield f"{self.refs.name}:{line}", record
            return
        for index, ref in enumerate(self._records):
            sentences = ref.get("sentences") if isinstance(ref, dict) else None
            if not isinstance(sentences, list) or not sentences:
                yield f"ref#{index}", ref
                continue
            for at, sentence in enumerate(sentences):
                given = sentence.get("sent_id") if isinstance(sentence, dict) else None
                row_id = f"sent-{given}" if isinstance(given, int) else f"ref#{index}.{at}"
                yield row_id, {**ref, "sentence": sentence}


def _refs(path: Path) -> list:
    refs = plain_pickle.load(path)
    if not isinstance(refs, list):
        raise PrepareError(f"{path} holds a {type(refs).__name__}, expected a list of refs. {WHERE}")
    return refs


def _split_of(record: Any) -> str:
    """The record's split under its usual name; "" for a broken record, which every split reports."""
    split = record.get("split") if isinstance(record, dict) else None
    return _SAME_SPLIT.get(split, split) if isinstance(split, str) else ""


def _objects(instances: Path) -> Iterator[tuple[str, Any]]:
    """("annotation 12", record) and ("image 3", record) of a COCO file."""
    for member, entry, _ in iter_members(instances):
        if member in ("annotations", "images") and isinstance(entry, dict):
            kept = ("bbox", "segmentation", "iscrowd", "width", "height", "file_name", "category_id")
            yield f"{member[:-1]} {entry.get('id')}", {name: entry[name] for name in kept if name in entry}
        elif member == "categories" and isinstance(entry, dict):
            yield f"category {entry.get('id')}", entry.get("name")


def _of_sentence(row_id: str, record: dict, objects: RecordStore) -> Example:
    image_id, ann_id = identifier(record, "image_id"), identifier(record, "ann_id")
    annotation, image = objects.get(f"annotation {ann_id}"), objects.get(f"image {image_id}")
    if annotation is None or image is None:
        missing = f"annotation {ann_id}" if annotation is None else f"image {image_id}"
        raise RejectError("object_not_in_instances", f"{missing} is not in instances.json")
    if annotation.get("iscrowd"):
        raise RejectError("crowd", f"annotation {ann_id} is a crowd; an expression means one object")
    box = box_of_xywh(annotation.get("bbox"), f"bbox of annotation {ann_id}")
    label = objects.get(f"category {annotation.get('category_id')}")
    region = Region(
        box,
        "answer",
        ANSWER_WEIGHT,
        label if isinstance(label, str) else "",
        mask=annotation.get("segmentation") or None,
    )
    size = image_size(image.get("width"), image.get("height"))
    return _example(row_id, text(as_record(record.get("sentence")), "sent"), text(image, "file_name"), size, region)


def _of_line(row_id: str, record: dict, objects: RecordStore) -> Example:
    box = check_pixels(box_of_xyxy(record.get("bbox"), "bbox"), "bbox")
    size = image_size(record.get("width"), record.get("height"))
    region = Region(box, "answer", ANSWER_WEIGHT, "")
    return _example(row_id, text(record, "expression"), text(record, "img_path"), size, region)


def _example(row_id: str, expression: str, image: str, size: tuple[int, int] | None, region: Region) -> Example:
    assert region.box is not None
    return Example(
        id=row_id,
        question=ask(expression),
        solution=box_text(region.box),
        answers=(box_text(region.box),),
        images=(image,),
        annotated_sizes=(size,),
        regions=(region,),
        question_type="refer",
        source="refcoco",
        license=LICENSE,
    )
