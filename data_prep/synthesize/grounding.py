"""Regions for prepared rows that have none: a larger model, or Grounding-DINO, says where the answer is to be seen.

What was found says so: the column `grounding` holds who found the row's regions, and a score in [0, 1] for each.
"""

import io
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import pyarrow as pa
from PIL import Image, ImageOps

from data_prep.examples import PrepareError, Region, RejectedError
from data_prep.images import bytes_of
from data_prep.mapping import with_columns, with_tokens
from data_prep.rows import heaviest_is_one
from data_prep.shards import ShardWriter
from data_prep.sources.base import region_of
from data_prep.synthesize.pipeline import as_rejected
from data_prep.synthesize.roles import Roles
from data_prep.synthesize.rows import PreparedQuestion, question_of
from data_prep.texts import render_text
from data_prep.tokens import TokenMapper
from sayo.answers.boxes import Coordinates, in_pixels, iou, labelled_boxes_in
from sayo.client import ChatError, as_completed
from sayo.geometry import RegionError

_TEXT_THRESHOLD = 0.25  # of Grounding-DINO: a word of the caption with more than this is part of a box's label
_SIGNS = re.compile(r"\[[A-Z]+\]|[^\w\s'-]")  # of a label: the tokenizer's marks, and the caption's full stops
_COLUMNS = ["id", "question", "solution", "answers", "images", "image_sizes", "regions", "grounding"]


class Found(NamedTuple):
    """A region in pixels of the one picture that was asked about, and its score in [0, 1]."""

    region: Region
    score: float


Finder = Callable[[PreparedQuestion, tuple[int, int]], Awaitable[list[Found]]]
"""Finds regions on the one picture of a question, of (W, H) pixels; raises RejectedError or ChatError."""


@dataclass(frozen=True)
class ServerFinder:
    """Asks the role `ground` for boxes, `samples` times.

    A box of the first sample scores the mean over the other samples of the highest intersection over union with one of
    theirs: servers give boxes no score, and a model that does not know draws them elsewhere each time. One sample is
    not compared, and its boxes score 1.
    """

    roles: Roles
    samples: int
    coordinates: Coordinates

    async def __call__(self, question: PreparedQuestion, size: tuple[int, int]) -> list[Found]:
        values = {"question": question.question, "answer": question.accepted[0], "size": size}
        text = render_text("synthesize/templates/ground.jinja", coordinates=self.coordinates, **values)
        replies = [await self.roles.ask("ground", question, text, True, sample) for sample in range(self.samples)]
        first, *others = (labelled_boxes_in(reply.rpartition("</think>")[2]) for reply in replies)
        found = []
        for box, label in first:
            best = [max((iou(box, other) for other, _ in sample), default=0.0) for sample in others]
            region = region_of(in_pixels(box, self.coordinates, size), label=label)
            found.append(Found(region, fmean(best) if best else 1.0))
        return found


class DetectorFinder:
    """Grounding-DINO (arXiv 2303.05499) of a folder or hub id, through transformers.

    Its caption is question and answer. A box whose words all stand in the answer is an answer region, any other one
    evidence. Boxes below `least_score` are not kept.
    """

    def __init__(self, name_or_path: str, least_score: float):
        import torch
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        try:
            self.processor = AutoProcessor.from_pretrained(name_or_path)
            self.model = AutoModelForZeroShotObjectDetection.from_pretrained(name_or_path).eval()
        except (OSError, ValueError) as error:
            raise PrepareError(f"--detector {name_or_path} is no Grounding-DINO: {error}") from None
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)
        self.least_score = least_score

    async def __call__(self, question: PreparedQuestion, size: tuple[int, int]) -> list[Found]:
        import torch

        answer = question.accepted[0].lower()
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(bytes_of(dict(question.images[0])))))
        caption = f"{question.question.lower().rstrip('?. ')}. {answer.rstrip('. ')}."
        inputs = self.processor(images=picture.convert("RGB"), text=caption, truncation=True, return_tensors="pt")
        inputs = inputs.to(self.device)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        limits = {"threshold": self.least_score, "text_threshold": _TEXT_THRESHOLD}
        (result,) = self.processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], target_sizes=[size[::-1]], **limits
        )
        found = zip(result["boxes"].tolist(), result["scores"].tolist(), result["text_labels"], strict=True)
        if not len(result["boxes"]):  # transformers gives one empty label all the same
            return []
        found = [(box, score, _SIGNS.sub(" ", label).split()) for box, score, label in found]
        roles = ("answer" if words and set(words) <= set(answer.split()) else "evidence" for _, _, words in found)
        return [
            Found(region_of(tuple(box), role, " ".join(words)), score)
            for (box, score, words), role in zip(found, roles, strict=True)
        ]


@dataclass(frozen=True)
class Grounding:
    """The change of rows (see `data_prep.mapping.rewrite`) that gives regions to those without.

    Rows with regions keep theirs. One for which nothing is found keeps none; one that could not be asked is rejected.

    Attributes:
        by: who finds them, for the column `grounding`.
        mapper: maps the regions of all rows; None leaves the token columns null.
    """

    find: Finder
    by: str
    least_score: float
    num_workers: int
    mapper: TokenMapper | None = None

    def __call__(self, table: pa.Table, writer: ShardWriter) -> pa.Table:
        rows = table.select(_COLUMNS).to_pylist()
        asked = [index for index, row in enumerate(rows) if not row["regions"]]
        failed: dict[int, RejectedError] = {}

        async def look(index: int) -> list[Found] | RejectedError:
            return await self._look(rows[index], index)

        for index, found in as_completed(look, asked, self.num_workers):
            if isinstance(found, RejectedError):
                failed[index] = found
            elif found:
                regions = heaviest_is_one([region for region, _ in found])
                rows[index]["regions"] = [region.row() for region in regions]
                scores = [round(score, 3) for _, score in found]
                rows[index]["grounding"] = json.dumps({"by": self.by, "scores": scores})
        for index in sorted(failed):
            writer.reject(rows[index]["id"], failed[index])
        kept = [index for index in range(len(rows)) if index not in failed]
        columns = {name: [rows[index][name] for index in kept] for name in ("regions", "grounding")}
        columns["has_region"] = [bool(regions) for regions in columns["regions"]]
        table = with_columns(table.take(pa.array(kept, pa.int64())), columns)
        return with_tokens(self.mapper, table, writer)

    async def _look(self, row: dict[str, Any], index: int) -> list[Found] | RejectedError:
        """What was found on all pictures of a row, or why it could not be asked."""
        question, found = question_of(row, index), []
        if not question.accepted:
            return RejectedError("no_solution", "the row has no answer to look for")
        try:
            for image, (entry, size) in enumerate(zip(question.images, row["image_sizes"], strict=True)):
                one = question._replace(images=[entry])
                found += _fitting(await self.find(one, tuple(size)), image, size, self.least_score)
        except (ChatError, RejectedError) as error:
            return as_rejected(error)
        return found


def _fitting(found: list[Found], image: int, size: tuple[int, int], least_score: float) -> list[Found]:
    """Those of at least that score that are boxes inside the picture, clipped to it."""
    fitting = []
    for region, score in found:
        try:
            region = region._replace(image=image).fit(tuple(size))
        except RegionError:  # reversed, or outside: the model's, not the user's, and one box of several
            continue
        if score >= least_score:
            fitting.append(Found(region, score))
    return fitting
