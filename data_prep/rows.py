"""One example -> one parquet row: image bytes, clipped regions, and the visual tokens that they cover."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.examples import Box, Example, Region, RejectError
from data_prep.images import ImageFile, read_image

if TYPE_CHECKING:
    import datasets

    from sayo.geometry import VisualCells, VisualLayout


def features() -> datasets.Features:
    """Columns of prepared data. Images decode to RGB, turned upright (`datasets` applies EXIF orientation)."""
    from datasets import Features, Image, List, Value

    return Features(
        {
            "id": Value("string"),
            "prompt": List({"role": Value("string"), "content": Value("string")}),
            "images": List(Image(mode="RGB")),
            "question": Value("string"),
            "solution": Value("string"),
            "answers": List(Value("string")),
            "regions": List(
                {
                    "image": Value("int32"),
                    "box": List(Value("float64")),
                    "rle": Value("string"),
                    "role": Value("string"),
                    "weight": Value("float32"),
                    "label": Value("string"),
                }
            ),
            "has_region": Value("bool"),
            "region_tokens": List(Value("int64")),
            "region_weights": List(Value("float32")),
            "num_visual_tokens": List(Value("int64")),
            "processor_fingerprint": Value("string"),
            "image_sizes": List(List(Value("int64"))),
            "question_type": Value("string"),
            "source": Value("string"),
            "split": Value("string"),
            "license": Value("string"),
        }
    )


class RowBuilder:
    """Examples -> rows (dicts with the keys of `features()`).

    Args:
        image_folder: where `Example.images` are.
        split: value of the split column.
        layout: the processor's layout; None leaves the four columns of token indices null.
    """

    def __init__(self, image_folder: Path, split: str, layout: VisualLayout | None):
        self.image_folder = image_folder
        self.split = split
        self.layout = layout
        # Questions about one image follow each other in most files, and most images share a few sizes.
        self._read = lru_cache(maxsize=4)(read_image)
        self._cells = lru_cache(maxsize=256)(layout.cells) if layout else None

    def __reduce__(self) -> tuple[Any, ...]:
        return RowBuilder, (self.image_folder, self.split, self.layout)  # for workers: caches stay at home

    def __call__(self, example: Example) -> dict[str, Any]:
        """Build the row.

        Raises:
            RejectError: an image cannot be used, or a region does not fit it.
        """
        _check_text(example)
        images = [self._read(self.image_folder, name) for name in example.images]
        regions = [_place(region, images[region.image], example) for region in example.regions]
        return {
            "id": example.id,
            "prompt": [{"role": "user", "content": example.question}],
            "images": [{"bytes": image.data, "path": image.name} for image in images],
            "question": example.question,
            "solution": example.solution,
            "answers": list(example.answers),
            "regions": regions,
            "has_region": bool(regions),
            **self._token_columns(images, regions),
            "image_sizes": [list(image.size) for image in images],
            "question_type": example.question_type,
            "source": example.source,
            "split": self.split,
            "license": example.license,
        }

    def _token_columns(self, images: list[ImageFile], regions: list[dict]) -> dict[str, Any]:
        names = ("region_tokens", "region_weights", "num_visual_tokens", "processor_fingerprint")
        if self.layout is None:
            return dict.fromkeys(names)
        cells = [self._cells_of(image, len(images)) for image in images]
        tokens, weights = _tokens(cells, regions)
        return dict(zip(names, (tokens, weights, [len(c) for c in cells], self.layout.fingerprint), strict=True))

    def _cells_of(self, image: ImageFile, num_images: int) -> VisualCells:
        assert self._cells is not None
        try:
            return self._cells(*image.size, num_images)
        except ValueError as error:
            raise RejectError("image_refused_by_processor", f"{image.name}: {error}") from None


def _check_text(example: Example) -> None:
    """JSON can spell half a character ("\\ud800"), which neither parquet nor a file system takes."""
    labels = [region.label for region in example.regions]
    try:
        "".join(
            [example.id, example.question, example.question_type, *example.answers, *example.images, *labels]
        ).encode()
    except UnicodeEncodeError as error:
        raise RejectError("malformed_record", f"text that is no Unicode: {error}") from None


def _tokens(cells: list[VisualCells], regions: list[dict]) -> tuple[list[int], list[float]]:
    from sayo.geometry import region_tokens

    if not regions:
        return [], []
    try:
        tokens, weights = region_tokens(cells, regions)
    except ValueError as error:
        raise RejectError("region_unseen_by_processor", str(error)) from None
    return tokens.tolist(), weights.tolist()


def _place(region: Region, image: ImageFile, example: Example) -> dict[str, Any]:
    """The region as a row value, in pixels of the upright picture and clipped to it."""
    box = _clip(_upright(region, image, example), image, region.label)
    return {
        "image": region.image,
        "box": list(box),
        "rle": region.rle,
        "role": region.role,
        "weight": region.weight,
        "label": region.label,
    }


def _upright(region: Region, image: ImageFile, example: Example) -> Box:
    """Boxes count in the picture as it is shown, unless the annotated size says that they were drawn on its side."""
    annotated = example.annotated_sizes[region.image]
    if annotated is None or tuple(annotated) == image.size:
        return region.box
    if tuple(annotated) == image.stored_size:
        return image.orient(region.box)
    raise RejectError(
        "image_size_differs",
        f"{image.name} is {image.size[0]}x{image.size[1]}, its boxes were drawn at {annotated[0]}x{annotated[1]}",
    )


def _clip(box: Box, image: ImageFile, label: str) -> Box:
    width, height = image.size
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    if x1 >= x2 or y1 >= y2:
        raise RejectError(
            "box_outside_image", f"box {[*box]} of {label!r} lies outside {image.name} ({width}x{height})"
        )
    return x1, y1, x2, y2
