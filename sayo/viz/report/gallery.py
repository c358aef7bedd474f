"""Held-out questions before and after training: the picture, where the policy looked, and what it said."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sayo.draw import spotlight
from sayo.geometry.cells import single_grid
from sayo.viz.pages import picture
from sayo.viz.report.runs import HeldOut, finite_numbers

LONGEST_SIDE = 480  # pixels of a picture on the page


def gallery(policies: Mapping[str, HeldOut], count: int) -> list[dict[str, Any]]:
    """Entries for `count` questions, each with a view of every policy, for the template.

    The first questions of the last policy's file, those with a map before others: the choice looks at no result, so
    that the gallery is not a selection of successes.
    """
    policies = {name: evaluation for name, evaluation in policies.items() if evaluation.samples}
    if not policies:
        return []
    last = policies[next(reversed(policies))]
    questions = sorted(last.samples, key=lambda question_id: last.map_of(question_id) is None)
    return [_entry(question_id, policies) for question_id in questions[:count]]


def _entry(question_id: str, policies: Mapping[str, HeldOut]) -> dict[str, Any]:
    asked = {name: evaluation for name, evaluation in policies.items() if question_id in evaluation.samples}
    sample = next(reversed(asked.values())).samples[question_id]
    opened = [_open(evaluation.folder, evaluation.samples[question_id].get("image")) for evaluation in asked.values()]
    image = next((image for image in opened if image is not None), None)
    regions = sample.get("regions") or []
    # How much of all attention lies on the image is said in words; the picture shows where on the image it lies.
    maps = {name: evaluation.map_of(question_id) for name, evaluation in asked.items()}
    shares = {name: values / values.sum() for name, values in maps.items() if values is not None and image is not None}
    peak = max((float(share.max()) for share in shares.values()), default=1.0)
    grids = {name: single_grid(*image.size, *share.shape[::-1]) for name, share in shares.items()}
    veils = {name: spotlight(grids[name], share.ravel(), peak) for name, share in shares.items()}
    pictures = {name: picture(image, regions, veil, longest=LONGEST_SIDE) for name, veil in veils.items()}
    return {
        "text": str(sample.get("question") or question_id),
        "kind": str(sample.get("question_type") or ""),
        "answer": str(sample.get("solution") or ""),
        "picture": None if image is None else picture(image, regions, longest=LONGEST_SIDE),
        "views": [
            {"policy": name, "picture": pictures.get(name), **_answers(evaluation.samples[question_id], maps[name])}
            for name, evaluation in asked.items()
        ],
    }


def _answers(sample: Mapping[str, Any], attention: np.ndarray | None) -> dict[str, Any]:
    completions = [str(text) for text in sample.get("completions") or []]
    marks, tas = finite_numbers(sample.get("correct")), finite_numbers(sample.get("tas"))
    return {
        "completions": completions,
        "num_correct": f"{sum(mark >= 0.5 for mark in marks)} of {len(marks)} right" if marks else "",
        "right": marks[0] >= 0.5 if marks else None,
        "tas": float(np.mean(tas)) if tas else None,
        "image_mass": float(attention.sum()) if attention is not None else None,
    }


def _open(folder: Path, name: str | None) -> Image.Image | None:
    """The picture of a sample, which lies in the evaluation folder; None where there is none."""
    path = (folder / str(name)).resolve()
    if not name or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    return Image.open(path).convert("RGB")
