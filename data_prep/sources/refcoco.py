"""RefCOCO, RefCOCO+ and RefCOCOg (https://github.com/lichengunc/refer): expressions that mean one object each.

Two forms: the original `refs(unc).p` with `instances.json` (masks; boxes xywh), and JSON lines with `img_path`,
`expression` and `bbox` (boxes xyxy). The question asks for the object's box, the answer is the box in whole pixels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.examples import Example, PrepareError, RejectedError
from data_prep.fields import as_record, box_of_xywh, box_text, identifier, image_size, is_crowd, text
from data_prep.json_records import iter_lines, iter_members
from data_prep.sources import plain_pickle
from data_prep.sources.base import Lookup, RecordSource, id_of, pixel_box, region_of

_SAME_SPLIT = {"validation": "val"}
_KEPT = ("bbox", "segmentation", "iscrowd", "width", "height", "file_name", "category_id")


class RefcocoSource(RecordSource):
    """One example for each expression of one split (train, val, testA, testB or test).

    `refs` is a `refs(*).p` with `instances.json` beside it, or a .jsonl file without.
    """

    name, license = "refcoco", "CC-BY-4.0"
    picture_fields = ("img_path", "image_id")

    def __init__(self, refs: Path, instances: Path | None, split: str):
        self.refs = self._file(refs, "RefCOCO expressions", ".p")
        self.instances = self._files(instances, "RefCOCO instances.json") if instances else []
        self._wanted = ("", _SAME_SPLIT.get(split, split))
        self._lines = self.refs.suffix == ".jsonl"
        if not self._lines and not self.instances:
            raise PrepareError(f"--instances: give the instances.json that lies beside {self.refs}")
        self._refs = [] if self._lines else plain_pickle.load(self.refs)
        if not isinstance(self._refs, list):
            raise PrepareError(f"{refs} holds a {type(self._refs).__name__}, expected a list of refs")
        super().__init__({"--refs": [self.refs], **({"--instances": self.instances} if instances else {})})
        if len(self) == 0:
            there = ", ".join(sorted({_split_of(record) for _, record in self._all()})) or "none"
            raise PrepareError(f"--split: {refs} holds no expression of the split {split!r}; there are: {there}")

    def _lookup_records(self) -> Iterator[tuple[str, Any]]:
        """("annotations 12", record), ("images 3", record) and ("categories 18", name) of the COCO file."""
        for member, entry, _ in (member for file in self.instances for member in iter_members(file)):
            if member in ("annotations", "images", "categories") and isinstance(entry, dict):
                kept = {name: entry[name] for name in _KEPT if name in entry}
                yield f"{member} {entry.get('id')}", entry.get("name") if member == "categories" else kept

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        for row_id, record in self._all():
            if _split_of(record) in self._wanted:
                yield row_id, self.refs.name, record

    def _all(self) -> Iterator[tuple[str, Any]]:
        """(id, record) of every expression; a record of the pickle is a ref with one of its sentences."""
        if self._lines:
            for line, record in iter_lines(self.refs):
                yield f"{self.refs.name}:{line}", record
        for index, ref in enumerate(self._refs):
            sentences = ref.get("sentences") if isinstance(ref, dict) else None
            if not isinstance(sentences, list) or not sentences:
                yield f"ref#{index}", ref
                continue
            for at, sentence in enumerate(sentences):
                given = id_of(sentence, "", "sent_id")
                yield f"sent-{given}" if given else f"ref#{index}.{at}", {**ref, "sentence": sentence}

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        if self._lines:
            region = region_of(pixel_box(record.get("bbox"), "bbox"))
            expression, file, image = text(record, "expression"), text(record, "img_path"), record
        else:
            image_id, ann_id = identifier(record, "image_id"), identifier(record, "ann_id")
            annotation, image = lookup(f"annotations {ann_id}"), lookup(f"images {image_id}")
            if annotation is None or image is None:
                missing = f"annotation {ann_id}" if annotation is None else f"image {image_id}"
                raise RejectedError("object_not_in_instances", f"{missing} is not in instances.json")
            if is_crowd(annotation):
                raise RejectedError("crowd", f"annotation {ann_id} is a crowd; an expression means one object")
            box = box_of_xywh(annotation.get("bbox"), f"bbox of annotation {ann_id}")
            label = lookup(f"categories {annotation.get('category_id')}")
            region = region_of(box, label=label, mask=annotation.get("segmentation") or None)
            expression, file = text(as_record(record.get("sentence")), "sent"), text(image, "file_name")
        question = f'Give the box of "{expression}" as [x1, y1, x2, y2] in pixels of the image.'
        size = image_size(image.get("width"), image.get("height"))
        return self._example(row_id, question, [box_text(region.box)], file, [region], size, "refer")


def _split_of(record: Any) -> str:
    """The record's split under its usual name; "" for a broken record, which every split reports."""
    split = record.get("split") if isinstance(record, dict) else None
    return _SAME_SPLIT.get(split, split) if isinstance(split, str) else ""
