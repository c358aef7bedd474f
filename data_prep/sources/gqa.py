"""GQA questions and scene graphs (Hudson and Manning 2019, https://cs.stanford.edu/people/dorarad/gqa) -> examples.

Which objects of the scene graph are a question's regions:

1. The *answer* objects are those that `annotations.answer` names. GQA annotates none where the answer is an attribute
   ("gray") or yes/no; then the answer object is the one whose attribute the last step of the program reads, or that
   exists, where that is asked and answered yes. Steps that judge a relation or compare two objects have no answer
   object: all theirs are evidence.
2. The *evidence* objects are all others that the program or the annotated words of question and full answer name.
3. `(-)` is an object that does not exist. A question without any object ("Is it indoors?") keeps no region.

Scene graphs exist for train and val, the held-out part; testdev has none, so its questions about objects are rejected.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.examples import Example, Region, RejectedError
from data_prep.fields import box_of_xywh, identifier, image_size, text
from data_prep.json_records import iter_records
from data_prep.sources.base import Lookup, RecordSource, id_of, region_of

# "shirt (1132412)", "fence (1132419) ", "sharks,to the right of,s (-)", "people (12,34)"; but not "not(black)"
_REFERENCE = re.compile(r"\(([\d,\s]+|-)\)\s*$")


class Step(NamedTuple):
    """One operation of a question's program; `objects` is None where the argument names no object at all."""

    operation: str
    dependencies: tuple[int, ...]
    objects: tuple[str, ...] | None


def _ids(text: str) -> list[str]:
    """The numbers in a text: nearly always a single one."""
    return [text] if text.isdecimal() else re.findall(r"\d+", text)


def parse_program(semantic: list[dict]) -> list[Step]:
    """Parse a question's `semantic` list (`semanticStr` says the same and is not read).

    Raises:
        RejectedError: `malformed_record`, when a step lacks a field or depends on a step that is not before it.
    """
    steps: list[Step] = []
    for index, entry in enumerate(semantic):
        try:
            operation, argument = str(entry["operation"]), str(entry["argument"])
            dependencies = tuple(map(int, entry["dependencies"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RejectedError("malformed_record", f"step {index} of the program: {error!r}") from None
        if dependencies and not 0 <= min(dependencies) <= max(dependencies) < index:
            raise RejectedError("malformed_record", f"step {index} of the program depends on {list(dependencies)}")
        reference = _REFERENCE.search(argument)
        steps.append(Step(operation, dependencies, tuple(_ids(reference[1])) if reference else None))
    return steps


def _answer_carrier(program: list[Step], exists: bool) -> tuple[str, ...]:
    """The objects whose attribute or name the last step reads ("What color is the shirt?"), or that exist."""
    if not program:
        return ()
    step = program[-1]
    if step.objects is not None or len(step.dependencies) != 1 or (step.operation == "exist" and not exists):
        return ()
    while step.objects is None and step.dependencies:  # walk back over filters to the select or relate
        step = program[step.dependencies[0]]
    return step.objects or ()


def _annotated(record: dict, part: str) -> list[str]:
    """Object ids of the annotated words of `part` (question, fullAnswer or answer), in file order."""
    spans = (record.get("annotations") or {}).get(part) or {}
    return [oid for value in spans.values() for oid in _ids(str(value))]


def referenced_objects(record: dict) -> tuple[list[str], list[str]]:
    """(answer ids, evidence ids) of a question, without repetition, by the rule above; else `malformed_record`."""
    try:
        program = parse_program(record["semantic"])
        answer = _annotated(record, "answer") or list(_answer_carrier(program, record.get("answer") == "yes"))
        evidence = [oid for step in program for oid in step.objects or ()]
        evidence += _annotated(record, "question") + _annotated(record, "fullAnswer")
    except (KeyError, TypeError, AttributeError) as error:
        raise RejectedError("malformed_record", f"semantic or annotations: {error!r}") from None
    answer = list(dict.fromkeys(answer))
    return answer, [oid for oid in dict.fromkeys(evidence) if oid not in answer]


class GqaSource(RecordSource):
    """Questions in file order; `questions` and `scene_graphs` (of the same split) are a file, a folder or a glob.

    `license` is that of the annotations: another one for files of one's own in GQA's format.
    """

    name = "gqa"
    picture_fields = ("imageId",)

    def __init__(self, questions: str | Path, scene_graphs: str | Path, license: str = "CC-BY-4.0"):
        self.question_files = self._files(questions, "GQA questions")
        self.graph_files = self._files(scene_graphs, "GQA scene graphs")
        self.license = license
        files = {"--questions": self.question_files, "--scene-graphs": self.graph_files}
        super().__init__(files, {"--license": license})

    def _lookup_records(self) -> Iterator[tuple[str, Any]]:
        return ((key or "", _compact(graph)) for file in self.graph_files for key, graph in iter_records(file))

    def _records(self) -> Iterator[tuple[str, str, Any]]:
        for file in self.question_files:
            for index, (key, record) in enumerate(iter_records(file)):
                if key is None:  # the list form, `[{"questionId": ..., ...}]`
                    key = id_of(record, f"{file.name}#{index}", "questionId", "question_id", "id")
                yield key, file.name, record

    def _build(self, row_id: str, record: dict[str, Any], lookup: Lookup) -> Example:
        question, solution, image_id = text(record, "question"), text(record, "answer"), identifier(record, "imageId")
        answer, evidence = referenced_objects(record)
        graph = lookup(image_id)
        if graph is None and (answer or evidence):
            raise RejectedError("no_scene_graph", f"image {image_id} has no scene graph in the given file")
        regions = [_region(lookup, image_id, oid, "answer") for oid in answer]
        regions += [_region(lookup, image_id, oid, "evidence") for oid in evidence]
        types = record.get("types") if isinstance(record.get("types"), dict) else {}
        kind = f"{types.get('structural', 'unknown')}-{types.get('semantic', 'unknown')}"
        return self._example(row_id, question, [solution], image_id, regions, graph[0] if graph else None, kind)


@lru_cache(maxsize=1024)  # questions about one image name the same objects again and again
def _region(graphs: Lookup, image_id: str, oid: str, role: str) -> Region:
    _, objects = graphs(image_id)
    if oid not in objects:
        raise RejectedError("object_not_in_graph", f"object {oid} is not in the scene graph of image {image_id}")
    name, *xywh = objects[oid]
    return region_of(box_of_xywh(xywh, f"object {oid} of image {image_id}"), role, name)


def _compact(graph: Any) -> tuple[tuple[int, int] | None, dict[str, list]]:
    """((W, H), object id -> [name, x, y, w, h]): the part of a scene graph that questions need."""
    objects = graph.get("objects") if isinstance(graph, dict) else None
    if not isinstance(objects, dict):
        return None, {}
    names = ("name", "x", "y", "w", "h")
    objects = {oid: [entry.get(name) for name in names] for oid, entry in objects.items() if isinstance(entry, dict)}
    return image_size(graph.get("width"), graph.get("height")), objects
