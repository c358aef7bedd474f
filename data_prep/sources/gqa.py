"""GQA questions and scene graphs (Hudson and Manning 2019, https://cs.stanford.edu/people/dorarad/gqa) -> examples.

Which objects of the scene graph are a question's regions:

1. The *answer* objects are those that `annotations.answer` names. GQA annotates none where the answer is an attribute
   ("gray") or yes/no; then the answer object is the one whose attribute the last step of the program reads. Steps
   that judge a relation, compare two objects or ask for existence have no answer object: all theirs are evidence.
2. The *evidence* objects are all others that the program or the annotated words of question and full answer name.
3. `(-)` is an object that does not exist. A question without any object ("Is it indoors?") keeps no region.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.examples import ANSWER_WEIGHT, EVIDENCE_WEIGHT, Example, Region, Reject, RejectError
from data_prep.json_records import iter_records, list_files

LICENSE = "CC-BY-4.0"

# "shirt (1132412)", "fence (1132419) ", "sharks,to the right of,s (-)", "people (12,34)"; but not "not(black)"
_REFERENCE = re.compile(r"\(([\d,\s]+|-)\)\s*$")


@dataclass(frozen=True)
class Step:
    """One operation of a question's program; `objects` is None where the argument names no object at all."""

    operation: str
    dependencies: tuple[int, ...]
    objects: tuple[str, ...] | None


@dataclass(frozen=True)
class SceneGraph:
    """The part of a scene graph that questions need: object id -> (name, x, y, w, h)."""

    size: tuple[int, int] | None
    objects: dict[str, tuple[Any, ...]]


def parse_program(semantic: list[dict]) -> list[Step]:
    """Parse a question's `semantic` list (`semanticStr` says the same and is not read).

    Raises:
        RejectError: `malformed_record`, when a step lacks a field or depends on a step that is not before it.
    """
    steps: list[Step] = []
    for index, entry in enumerate(semantic):
        try:
            operation, argument = str(entry["operation"]), str(entry["argument"])
            dependencies = tuple(int(step) for step in entry["dependencies"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RejectError("malformed_record", f"step {index} of the program: {error!r}") from None
        if any(not 0 <= step < index for step in dependencies):
            raise RejectError("malformed_record", f"step {index} of the program depends on {list(dependencies)}")
        reference = _REFERENCE.search(argument)
        objects = tuple(re.findall(r"\d+", reference[1])) if reference else None
        steps.append(Step(operation, dependencies, objects))
    return steps


def _answer_carrier(program: list[Step]) -> tuple[str, ...]:
    """The objects whose attribute or name the last step reads: "What color is the shirt?" -> the shirt."""
    if not program:
        return ()
    step = program[-1]
    if step.operation == "exist" or step.objects is not None or len(step.dependencies) != 1:
        return ()
    while step.objects is None and step.dependencies:  # walk back over filters to the select or relate
        step = program[step.dependencies[0]]
    return step.objects or ()


def _annotated(record: dict, part: str) -> list[str]:
    """Object ids of the annotated words of `part` (question, fullAnswer or answer), in file order."""
    spans = (record.get("annotations") or {}).get(part) or {}
    return [oid for value in spans.values() for oid in re.findall(r"\d+", str(value))]


def referenced_objects(record: dict) -> tuple[list[str], list[str]]:
    """(answer ids, evidence ids) of one question record, without repetition, by the rule at the top of this file.

    Raises:
        RejectError: `malformed_record`.
    """
    try:
        program = parse_program(record["semantic"])
        answer = _annotated(record, "answer") or list(_answer_carrier(program))
        evidence = [oid for step in program for oid in step.objects or ()]
        evidence += _annotated(record, "question") + _annotated(record, "fullAnswer")
    except (KeyError, TypeError, AttributeError) as error:
        raise RejectError("malformed_record", f"semantic or annotations: {error!r}") from None
    answer = list(dict.fromkeys(answer))
    return answer, [oid for oid in dict.fromkeys(evidence) if oid not in answer]


def _region(oid: str, role: str, graph: SceneGraph, image_id: str) -> Region:
    if oid not in graph.objects:
        raise RejectError("object_not_in_graph", f"object {oid} is not in the scene graph of image {image_id}")
    name, *xywh = graph.objects[oid]
    found = f"object {oid} of image {image_id} has x, y, w, h = {str(xywh)[:200]}"
    x, y, w, h = (_number(value) for value in xywh)
    if not all(math.isfinite(value) for value in (x, y, w, h)):
        raise RejectError("nan_box", found)
    if w <= 0 or h <= 0:
        raise RejectError("zero_area_box", found)
    weight = ANSWER_WEIGHT if role == "answer" else EVIDENCE_WEIGHT
    return Region(box=(x, y, x + w, y + h), role=role, weight=weight, label=name if isinstance(name, str) else "")  # type: ignore[arg-type]


def _number(value: Any) -> float:
    """The value as a float; NaN for what is no number."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def _text(record: dict, field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        reason = "no_answer" if field == "answer" and value is None else "malformed_record"
        raise RejectError(reason, f"field {field!r} is {str(value)[:200]!r}, expected text")
    return value


def build_example(qid: str, record: Any, graphs: dict[str, SceneGraph]) -> Example:
    """Join one question with the scene graph of its image.

    Raises:
        RejectError: malformed_record, no_answer, no_scene_graph, object_not_in_graph, nan_box or zero_area_box.
    """
    if not isinstance(record, dict):
        raise RejectError("malformed_record", f"expected an object with fields, found {type(record).__name__}")
    question, solution = _text(record, "question"), _text(record, "answer")
    image_id = str(record["imageId"]) if isinstance(record.get("imageId"), int) else _text(record, "imageId")
    answer, evidence = referenced_objects(record)
    graph = graphs.get(image_id)
    if graph is None and (answer or evidence):
        raise RejectError("no_scene_graph", f"image {image_id} has no scene graph in the given file")
    regions = [_region(oid, "answer", graph, image_id) for oid in answer]
    regions += [_region(oid, "evidence", graph, image_id) for oid in evidence]
    types = record.get("types") if isinstance(record.get("types"), dict) else {}
    return Example(
        id=qid,
        question=question,
        solution=solution,
        answers=(solution,),
        images=(image_id,),
        annotated_sizes=(graph.size if graph else None,),
        regions=tuple(regions),
        question_type=f"{types.get('structural', 'unknown')}-{types.get('semantic', 'unknown')}",
        source="gqa",
        license=LICENSE,
    )


def _compact(graph: Any) -> SceneGraph:
    """Drop relations and attributes: 75 thousand train graphs then fit into a few hundred MB."""
    if not isinstance(graph, dict) or not isinstance(graph.get("objects"), dict):
        return SceneGraph(None, {})
    objects = {
        oid: (entry.get("name"), entry.get("x"), entry.get("y"), entry.get("w"), entry.get("h"))
        for oid, entry in graph["objects"].items()
        if isinstance(entry, dict)
    }
    width, height = graph.get("width"), graph.get("height")
    size = (width, height) if isinstance(width, int) and isinstance(height, int) else None
    return SceneGraph(size, objects)


class GqaSource:
    """Questions in file order.

    Args:
        questions: a `*_questions.json`, a folder of them (train_all_questions/) or a glob.
        scene_graphs: the `*_sceneGraphs.json` of the same split; also a folder or a glob.

    Raises:
        PrepareError: a file is missing or not JSON, or there is no question in it.
    """

    name = "gqa"

    def __init__(self, questions: str | Path, scene_graphs: str | Path):
        self.question_files = list_files(questions, "GQA questions")
        self.graph_files = list_files(scene_graphs, "GQA scene graphs")
        self._count = sum(1 for file in self.question_files for _ in iter_records(file))

    def __len__(self) -> int:
        """Number of questions in the files, duplicates included."""
        return self._count

    def settings(self) -> dict[str, str]:
        """Option -> digest of the files it names: what a finished shard must share to be kept."""
        return {"--questions": _digest(self.question_files), "--scene-graphs": _digest(self.graph_files)}

    def __iter__(self) -> Iterator[Example | Reject]:
        graphs = {key or "": _compact(graph) for file in self.graph_files for key, graph in iter_records(file)}
        for file in self.question_files:
            for index, (key, record) in enumerate(iter_records(file)):
                qid = key if key is not None else _listed_id(record, file, index)
                try:
                    yield build_example(qid, record, graphs)
                except RejectError as error:
                    yield Reject(qid, error.reason, f"{error.detail} ({file.name})")


def _listed_id(record: Any, file: Path, index: int) -> str:
    """The id of a question in the list form of the files (`[{"questionId": ..., ...}]`)."""
    fields = record if isinstance(record, dict) else {}
    for name in ("questionId", "question_id", "id"):
        if fields.get(name) is not None:
            return str(fields[name])
    return f"{file.name}#{index}"


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]
