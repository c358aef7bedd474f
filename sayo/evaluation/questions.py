"""Rows of any task as questions of one shape: that of prepared data, so that everything downstream knows one shape."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from sayo.answers.compare import normalize
from sayo.evaluation.extraction import LETTERS
from sayo.evaluation.sources import decode_image, load_rows
from sayo.evaluation.tasks import Task, TaskError, columns_of, fields_of, fill, render

_OPTION_LABEL = re.compile(r"^\s*\(?([A-J])[).:]\s*")
_OPTION_SPLIT = re.compile(r"(?:^|[;\n])\s*\(?[A-J][).:]\s*")


class BadRow(ValueError):
    """A row that cannot be asked; `kind` is what the summary counts ("image", "row")."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class Questions:
    """The questions of a task, made row by row when they are asked for.

    A question is a mapping with the columns of prepared data (`id`, `prompt`, `images` decoded, `question`,
    `solution`, `answers`, `regions`, `question_type`, ...) and, from task files, `options`, `precision`, `groups`.

    Args:
        task: the task file.
        path: local copy of the data.
        seed: of the shuffled options.
        limit: only the first so many.
        system_prompt: put in front of every prompt.

    Raises:
        TaskError: the data cannot be loaded or lack a column.
    """

    def __init__(
        self,
        task: Task,
        path: str | Path | None = None,
        *,
        seed: int = 0,
        limit: int | None = None,
        system_prompt: str | None = None,
    ):
        self.task, self.seed, self.system_prompt = task, seed, system_prompt
        rows = load_rows(task, path)
        _check_columns(task, rows)
        self.rows = rows.select(range(min(limit, len(rows)))) if limit else rows
        self._names = self._identity(self.rows)
        self._pictures: Dataset | None = None
        self._picture_of: dict[Any, int] = {}
        if task.image_table is not None:
            self._pictures = load_rows(task, path, task.image_table.config)
            _check_table(task, self._pictures)
            self._picture_of = {key: i for i, key in enumerate(self._pictures[task.image_table.key])}

    def __len__(self) -> int:
        return len(self.rows)

    def id_of(self, index: int) -> str:
        """The question's id, without touching its pictures."""
        template = self.task.columns.id if self.task.columns else "id"
        if template is None or (self.task.columns is None and "id" not in self.rows.column_names):
            return str(index)
        return fill(template, _Row(self._names[index]))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The question at `index`.

        Raises:
            BadRow: a picture cannot be decoded, or the row contradicts its task.
        """
        row = self.rows[index]
        question = self._prepared(row) if self.task.columns is None else self._mapped(index, _Row(row))
        if self.system_prompt:
            question["prompt"] = [{"role": "system", "content": self.system_prompt}, *question["prompt"]]
        return {**question, "id": self.id_of(index), "index": index}

    @property
    def has_regions(self) -> bool:
        """Whether the data can name target regions."""
        columns = self.task.columns
        return "regions" in self.rows.column_names if columns is None else columns.boxes is not None

    def _prepared(self, row: dict[str, Any]) -> dict[str, Any]:
        images = [_decode(value) for value in row.get("images") or []]
        prompt = row["prompt"]
        question = row.get("question") or str(prompt[-1]["content"])
        defaults = {"question": question, "question_type": "all", "regions": [], "has_region": False}
        return {**defaults, **row, "images": images, "image_sizes": [list(image.size) for image in images]}

    def _mapped(self, index: int, row: _Row) -> dict[str, Any]:
        task, columns = self.task, self.task.columns
        options = parse_options(row[columns.options]) if columns.options else []
        answers, order = self._answers(row[columns.answer], options, index)
        options = [options[i] for i in order]
        text = str(row[columns.question]) if columns.question else ""
        lettered = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
        images = self._images(row)
        return {
            "prompt": [
                {"role": "user", "content": render(task.prompt, row.named(question=text, options=lettered)).strip()}
            ],
            "images": images,
            "question": text,
            "solution": answers[0],
            "answers": answers,
            "options": options,
            "precision": row[columns.precision] if columns.precision else None,
            "regions": _regions(row[columns.boxes], task.box_format) if columns.boxes else [],
            "question_type": fill(columns.question_type, row) if columns.question_type else "all",
            "image_sizes": [list(image.size) for image in images],
            "groups": {name: fill(template, row) for name, template in task.groups.items()},
        }

    def _answers(self, value: Any, options: list[str], index: int) -> tuple[list[str], list[int]]:
        """Accepted answers (the letter where there are options), and the order in which the options are shown."""
        form, order = self.task.answer_form, list(range(len(options)))
        if not options:
            answers = value if isinstance(value, list) else _listed(value) if form != "text" else [value]
            if not answers or answers[0] is None:
                raise BadRow("row", "the reference answer is missing")
            return [str(answer) for answer in answers], order
        correct = _correct_option(value, options, form)
        if self.task.shuffle_options:
            random.Random(f"{self.seed}|{self.id_of(index)}").shuffle(order)
        return [LETTERS[order.index(correct)]], order

    def _images(self, row: _Row) -> list:
        table, columns = self.task.image_table, self.task.columns
        if table is not None:
            at = self._picture_of.get(row[table.row_key])
            if at is None:
                raise BadRow("image", f"no picture {row[table.row_key]!r} in `{table.config}`")
            return [_decode(self._pictures[at][table.image])]
        if isinstance(columns.images, str):
            value = row[columns.images]
            return [_decode(one) for one in (value if isinstance(value, list) else [value])]
        return [_decode(row[name]) for name in columns.images if row[name] is not None]

    def _identity(self, rows: Dataset) -> Dataset:
        columns = self.task.columns
        wanted = ["id"] if columns is None else columns_of(columns.id) if columns.id else []
        return rows.select_columns(
            [n for n in dict.fromkeys(w.split(".")[0] for w in wanted) if n in rows.column_names]
        )


class _Row(Mapping):
    """A row whose dotted names reach into structs."""

    def __init__(self, values: Mapping[str, Any], named: Mapping[str, Any] | None = None):
        self._values, self._named = values, named or {}

    def __getitem__(self, name: str) -> Any:
        if name in self._named:
            return self._named[name]
        if name in self._values:
            return self._values[name]
        head, _, tail = name.partition(".")
        return (self._values[head] or {}).get(tail)

    def __iter__(self):
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def named(self, **values: Any) -> _Row:
        """With further names in front of the columns."""
        return _Row(self._values, values)


def parse_options(value: Any) -> list[str]:
    """Option texts, without letters, of a list, its Python notation, or one string such as `A. 3; B. 4`."""
    value = _listed(value)
    if len(value) == 1 and isinstance(value[0], str) and len(_OPTION_SPLIT.findall(value[0])) > 1:
        value = [part for part in _OPTION_SPLIT.split(value[0]) if part.strip()]
    options = [str(one).strip() for one in value if one is not None and str(one).strip()]
    labels = [_OPTION_LABEL.match(option) for option in options]
    # A label is taken off only where every option has its own: "A. Smith" may be a name.
    if options and all(label and label[1] == LETTERS[i % len(LETTERS)] for i, label in enumerate(labels)):
        options = [_OPTION_LABEL.sub("", option) for option in options]
    if len(options) > len(LETTERS):
        raise BadRow("row", f"{len(options)} options, more than the {len(LETTERS)} letters A to J")
    return options


def _listed(value: Any) -> list:
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            return [value]
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _correct_option(value: Any, options: list[str], form: str) -> int:
    if form == "first":
        return 0
    if form == "text":
        same = [i for i, option in enumerate(options) if option == str(value).strip()] or [
            i for i, option in enumerate(options) if normalize(option) == normalize(str(value))
        ]
        at = same[0] if len(same) == 1 else -1
    else:
        text = str(value).strip().strip("().: ")
        at = LETTERS.find(text.upper()) if form == "letter" and len(text) == 1 else int(text) if text.isdigit() else -1
    if not 0 <= at < len(options):
        raise BadRow("row", f"the reference answer {value!r} ({form}) is none of the {len(options)} options")
    return at


def _regions(value: Any, box_format: str) -> list[dict[str, Any]]:
    if value is None or not len(value):
        return []
    boxes = np.asarray(value, dtype=np.float64).reshape(-1, 4)
    if box_format == "xywh":
        boxes[:, 2:] += boxes[:, :2]
    return [{"image": 0, "box": box.tolist(), "rle": None, "role": "answer", "weight": 1.0} for box in boxes]


def _decode(value: Any):
    try:
        return decode_image(value)
    except ValueError as error:
        raise BadRow("image", str(error)) from None


def _check_columns(task: Task, rows: Dataset) -> None:
    if task.columns is None:
        wanted = {"prompt": ["prompt"], "solution": ["solution"]}
    else:
        columns = task.columns
        wanted = {
            f"columns.{key}": [value] if isinstance(value, str) else list(value)
            for key in ("question", "answer", "options", "boxes", "precision", "images")
            if (value := getattr(columns, key)) and not (key == "images" and task.image_table)
        }
        for key, template in (("columns.id", columns.id), ("columns.question_type", columns.question_type)):
            wanted[key] = columns_of(template) if template else []
        wanted["prompt"] = [n for n in fields_of(task.prompt) if n not in ("question", "options")]
        wanted["groups"] = [name for template in task.groups.values() for name in columns_of(template)]
        wanted["image_table.row_key"] = [task.image_table.row_key] if task.image_table else []
    _require(task, wanted, rows)


def _check_table(task: Task, rows: Dataset) -> None:
    _require(task, {"image_table.key": [task.image_table.key], "image_table.image": [task.image_table.image]}, rows)


def _require(task: Task, wanted: Mapping[str, list[str]], rows: Dataset) -> None:
    for key, names in wanted.items():
        for name in names:
            if name not in rows.column_names and name.split(".")[0] not in rows.column_names:
                raise TaskError(
                    f"Task {task.name}: the data have no column {name!r} (`{key}`). Columns: "
                    f"{', '.join(rows.column_names)}. Copy the task file, correct it, and pass its path to --tasks."
                )
