"""Task files: which data set is asked, which columns it has, how the question is put and how the answer is scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from sayo.evaluation.scoring import SCORERS
from sayo.recipes import did_you_mean as _closest
from sayo.recipes import recipes_dir

ANSWER_FORMS = ("text", "letter", "index", "first")
BOX_FORMATS = ("xyxy", "xywh")


class TaskError(ValueError):
    """A task that cannot be run as it is written, or data that do not fit it. Says what to do next."""


@dataclass(frozen=True)
class Columns:
    """`columns:` names of the data set's columns; a dotted name reaches into a struct (`metadata.subject`).

    question: text of the question; absent where it is drawn in the picture.
    images: one column or several (those that are null in a row are left out); null for text-only rows.
    answer: the reference, one or a list.
    options: list of option texts, its Python notation, or one string such as `A. 3; B. 4`.
    id, question_type: templates over columns, e.g. `"{category}/{question_id}"`, or one column.
    boxes: one box or a list of boxes, in pixels of the (upright) image.
    precision: decimals that an answer is rounded to before it is compared.
    """

    answer: str
    images: str | list[str]
    question: str | None = None
    options: str | None = None
    id: str | None = None
    question_type: str | None = None
    boxes: str | None = None
    precision: str | None = None


@dataclass(frozen=True)
class ImageTable:
    """`image_table:` a second table that holds the pictures.

    config: its configuration (a folder of that name in a local copy).
    key: its column that `row_key` of a question names.
    image: its picture column.
    """

    config: str
    key: str
    row_key: str
    image: str = "image"


@dataclass(frozen=True)
class Task:
    """One task file.

    Attributes:
        name: the file's name without ending.
        dataset: hub id, or a local folder or file; None where `--data` or `--data-root` must say it.
        config, split: of that data set.
        folders: set where every question is a `.json` file beside its picture (V*): these sub-folders are read.
        columns: None for rows of `sayo prepare`, which need no mapping.
        prompt: template over `question`, `options` (lettered lines) and any column.
        answer_form: what the answer column holds: the text, an option's letter, its index, or nothing because the
            correct option stands first ("first").
        box_format: "xyxy" or "xywh".
        shuffle_options: put the options in a random order, by the seed and the question's id.
        scorer: one of `scoring.SCORERS`; a row with options is always scored by its letter.
        groups: name -> template; the summary reports the share of groups of which every question is right.
    """

    name: str
    scorer: str
    dataset: str | None = None
    config: str | None = None
    split: str = "test"
    folders: list[str] | None = None
    columns: Columns | None = None
    image_table: ImageTable | None = None
    prompt: str = "{question}"
    answer_form: str = "text"
    box_format: str = "xyxy"
    shuffle_options: bool = False
    groups: dict[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """The task as plain values, for `settings.json`."""
        return dataclasses.asdict(self)


def tasks_dir() -> Path:
    """Where the shipped task files lie."""
    return recipes_dir() / "tasks"


def task_names() -> list[str]:
    """Names that `--tasks` accepts."""
    return sorted(path.stem for path in tasks_dir().glob("*.yaml"))


def load_task(name: str) -> Task:
    """Read a shipped task by name, or your own task file by path.

    Raises:
        TaskError: unknown task, key or value (named, with the closest known one).
    """
    own = Path(name)
    if own.suffix not in (".yaml", ".yml"):
        if name not in task_names():
            raise TaskError(f"Unknown task {name!r}.{_closest(name, task_names())} Tasks: {', '.join(task_names())}.")
        own = tasks_dir() / f"{name}.yaml"
    elif not own.is_file():
        raise TaskError(f"There is no task file {name}.")
    try:
        values = yaml.safe_load(own.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise TaskError(f"Task file {own} is no YAML: {error}") from None
    return _task(own.stem, values)


def _task(name: str, values: Any) -> Task:
    values = dict(_mapping(values, f"Task {name}"))
    for key, kind in (("columns", Columns), ("image_table", ImageTable)):
        if values.get(key) is not None:
            values[key] = _build(kind, _mapping(values[key], f"Task {name}: `{key}`"), f"Task {name}: `{key}`")
    task = _build(Task, {**values, "name": name}, f"Task {name}")
    _one_of(task, "scorer", SCORERS)
    _one_of(task, "answer_form", ANSWER_FORMS)
    _one_of(task, "box_format", BOX_FORMATS)
    if task.columns is not None and task.answer_form != "text" and task.columns.options is None:
        raise TaskError(f"Task {name}: `answer_form: {task.answer_form}` needs `columns.options`.")
    return task


def fields_of(template: str) -> list[str]:
    """Names in the braces of a template."""
    return [name for _, name, _, _ in Formatter().parse(template) if name]


def columns_of(template: str) -> list[str]:
    """Names in a template; without braces it is the name of a column itself."""
    return fields_of(template) if "{" in template else [template]


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template with the values of a row in its braces (`{{` is a brace); a null is left out."""
    parts = [(text, None if name is None else values[name]) for text, name, _, _ in Formatter().parse(template)]
    return "".join(text + ("" if value is None else str(value)) for text, value in parts)


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A template filled in, or the value of the column that it names."""
    return render(template, values) if "{" in template else str(values[template])


def _mapping(values: Any, where: str) -> Mapping:
    if not isinstance(values, Mapping):
        raise TaskError(f"{where} must be a mapping of keys to values, got {values!r}.")
    return values


def _build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    known = [item.name for item in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise TaskError(f"{where} has an unknown key `{key}`.{_closest(str(key), known)}")
    needed = [
        item.name
        for item in dataclasses.fields(kind)
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    missing = [key for key in needed if key not in values]
    if missing:
        raise TaskError(f"{where} lacks the key{'s' * (len(missing) > 1)} {', '.join(f'`{key}`' for key in missing)}.")
    return kind(**values)


def _one_of(task: Task, key: str, known: Any) -> None:
    value = getattr(task, key)
    if value not in known:
        raise TaskError(f"Task {task.name}: `{key}: {value}` is unknown.{_closest(str(value), list(known))}")
