"""Held-out questions before and after training: the picture, where the policy looked, and what it said."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from sayo.report.evaluation import Evaluation, numbers

LONGEST_SIDE = 360  # pixels of a picture on the page
REGION_COLORS = {"answer": "#16a34a", "evidence": "#f59e0b"}
DIMMEST = 0.2  # brightness of a cell without attention
GLOW, GLOW_OPACITY = (255, 214, 80), 0.3


@dataclass(frozen=True)
class View:
    """One policy on one question. `picture` is a data URI, or None without a map."""

    policy: str
    picture: str | None
    completion: str
    others: tuple[str, ...]
    num_correct: str
    right: bool | None
    tas: float | None
    image_mass: float | None


@dataclass(frozen=True)
class Question:
    """One entry of the gallery; `picture` is the image with its regions, a data URI."""

    text: str
    kind: str
    answer: str
    picture: str | None
    views: tuple[View, ...]


def pick(evaluation: Evaluation, count: int) -> list[str]:
    """Ids of `count` questions: the first of each type in turn, in the file's order, those with a map before others.

    The choice looks at no result, so that the gallery is not a selection of successes.
    """
    by_type: dict[str, list[str]] = {}
    with_map = sorted(evaluation.samples, key=lambda i: evaluation.map_of(i) is None)  # stable: keeps the order
    for question_id in with_map:
        by_type.setdefault(str(evaluation.samples[question_id].get("question_type")), []).append(question_id)
    rounds = zip_longest(*by_type.values())
    return [question_id for ids in rounds for question_id in ids if question_id is not None][:count]


def gallery(policies: dict[str, Evaluation | None], count: int) -> tuple[list[Question], list[str]]:
    """Entries for `count` questions, each with a view of every policy, and sentences about what could not be shown."""
    moments = {name: e for name, e in policies.items() if e is not None and e.samples}
    if not moments:
        return [], []
    notes: dict[str, None] = {}
    questions = [_question(i, moments, notes) for i in pick(next(reversed(moments.values())), count)]
    return questions, list(notes)


def _question(question_id: str, moments: dict[str, Evaluation], notes: dict[str, None]) -> Question:
    shown = [e for e in moments.values() if question_id in e.samples]
    sample = shown[-1].samples[question_id]
    image = next((found for e in shown if (found := _open(e, question_id, notes)) is not None), None)
    boxes = _boxes(sample, notes)
    maps = {name: e.map_of(question_id) for name, e in moments.items()}
    size = image.size if image is not None else None
    shares = {name: _share(attention, size) for name, attention in maps.items()}
    if any(shares[name] is None and maps[name] is not None for name in moments):
        notes[f"the attention of question {question_id}: its visual tokens are no single grid"] = None
    top = max((float(share.max()) for share in shares.values() if share is not None), default=1.0)
    views = tuple(
        _view(name, e.samples[question_id], maps[name], shares[name], top, image, boxes, sample)
        for name, e in moments.items()
        if question_id in e.samples
    )
    picture = None if image is None else _uri(_draw_boxes(_fit(image), boxes, image.size))
    kind = str(sample.get("question_type") or "")
    return Question(
        str(sample.get("question") or question_id), kind, str(sample.get("solution") or ""), picture, views
    )


def _view(
    name: str,
    sample: dict[str, Any],
    attention: np.ndarray | None,
    share: np.ndarray | None,
    top: float,
    image: Image.Image | None,
    boxes: list[tuple[list[float], str]],
    any_sample: dict[str, Any],
) -> View:
    picture = None
    if share is not None:
        size = image.size if image is not None else _size(any_sample, share)
        canvas = _fit(image if image is not None else Image.new("RGB", size, "#e2e8f0"))
        picture = _uri(_draw_boxes(blend(canvas, share / top), boxes, size))
    completions = [str(text) for text in sample.get("completions") or []]
    marks, tas = numbers(sample.get("correct")), numbers(sample.get("tas"))
    return View(
        policy=name,
        picture=picture,
        completion=completions[0] if completions else "",
        others=tuple(completions[1:]),
        num_correct=f"{sum(mark >= 0.5 for mark in marks)} of {len(marks)} right" if marks else "",
        right=marks[0] >= 0.5 if marks else None,
        tas=float(np.mean(tas)) if tas else None,
        image_mass=float(attention.sum()) if attention is not None else None,
    )


def blend(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """Light a picture by `heat` (`(rows, columns)` in [0, 1]): dim where nothing is looked at, glowing at the most.

    Colours stay readable, because they are often what the question is about. A cell stays one flat patch, as the model
    sees it.
    """
    rows = np.arange(picture.height) * heat.shape[0] // picture.height
    columns = np.arange(picture.width) * heat.shape[1] // picture.width
    values = np.clip(heat[np.ix_(rows, columns)], 0, 1)[..., None]
    glow = GLOW_OPACITY * values**2
    lit = np.asarray(picture, dtype=float) * (DIMMEST + (1 - DIMMEST) * values) * (1 - glow) + np.array(GLOW) * glow
    return Image.fromarray(lit.astype(np.uint8))


def _share(attention: np.ndarray | None, size: tuple[int, int] | None) -> np.ndarray | None:
    """Where on the image the attention lies, without how much of it lies on the image (that is said in words).

    None without a map, and for tokens in one row on an image that is not so wide: tiles, which are no grid.
    """
    if attention is None:
        return None
    rows, columns = attention.shape
    if rows == 1 and columns > 3 and size is not None and columns > 3 * size[0] / size[1]:
        return None
    return attention / attention.sum()


def _open(evaluation: Evaluation, question_id: str, notes: dict[str, None]) -> Image.Image | None:
    name = evaluation.samples[question_id].get("image")
    if not name:
        return None
    path = (evaluation.folder / str(name)).resolve()
    if not path.is_relative_to(evaluation.folder.resolve()):
        notes[f"the image of question {question_id}, which lies outside the evaluation folder"] = None
        return None
    try:
        return Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        notes[f"the image of question {question_id} ({Path(str(name)).name}), which cannot be read"] = None
        return None


def _boxes(sample: dict[str, Any], notes: dict[str, None]) -> list[tuple[list[float], str]]:
    boxes = []
    for region in sample.get("regions") or []:
        box = region.get("box") if isinstance(region, dict) else None
        if (
            isinstance(box, list)
            and len(box) == 4
            and all(isinstance(v, (int, float)) and np.isfinite(v) for v in box)
        ):
            boxes.append((box, str(region.get("role") or "answer")))
        else:
            notes[f"a region of question {sample.get('id')} that is no box of four numbers"] = None
    return boxes


def _size(sample: dict[str, Any], share: np.ndarray) -> tuple[int, int]:
    size = sample.get("image_size")
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size):
        return size[0], size[1]
    return share.shape[1] * 16, share.shape[0] * 16


def _fit(image: Image.Image) -> Image.Image:
    scale = LONGEST_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)


def _draw_boxes(picture: Image.Image, boxes: list[tuple[list[float], str]], size: tuple[int, int]) -> Image.Image:
    """Outline regions given in pixels of the original image of `size`."""
    pen = ImageDraw.Draw(picture)
    x_scale, y_scale = picture.width / size[0], picture.height / size[1]
    for (x1, y1, x2, y2), role in boxes:
        left, right = sorted((x1 * x_scale, x2 * x_scale))
        upper, lower = sorted((y1 * y_scale, y2 * y_scale))
        for width, color in ((5, "white"), (3, REGION_COLORS.get(role, "#0ea5e9"))):
            pen.rectangle((left, upper, max(right - 1, left), max(lower - 1, upper)), outline=color, width=width)
    return picture


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
