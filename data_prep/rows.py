"""One example -> one parquet row: image bytes, clipped regions, and the visual tokens that they cover."""

from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_prep.examples import EmbeddedImage, Example, PrepareError, Region, RejectedError
from data_prep.fields import check_inside
from data_prep.images import ImageFile, parse_image, read_image
from data_prep.tokens import COLUMNS as TOKEN_COLUMNS
from data_prep.tokens import TokenMapper

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


@cache
def features() -> "datasets.Features":
    """Columns of prepared data. Images decode to RGB, turned upright (`datasets` applies EXIF orientation)."""
    from datasets import Features

    return Features.from_dict(yaml.safe_load(Path(__file__).with_name("columns.yaml").read_text(encoding="utf-8")))


def written_schema() -> "pa.Schema":
    """The schema of `table_of`: `features()`, with the image bytes as an index into the different ones."""
    import pyarrow as pa

    schema = features().arrow_schema
    image = pa.struct([("bytes", pa.dictionary(pa.int32(), pa.binary())), ("path", pa.string())])
    return schema.set(schema.get_field_index("images"), pa.field("images", pa.list_(image)))


def table_of(rows: list[dict[str, Any]], schema: "pa.Schema") -> "pa.Table":
    """Rows of a `RowBuilder` as a table of `written_schema()`.

    Bytes that several rows show go into the table once (by content: parquet's writer fills a dictionary that holds one
    value twice up with whatever lies in memory).
    """
    import pyarrow as pa

    entries = [entry for row in rows for entry in row["images"]]
    different = dict.fromkeys(entry["bytes"] for entry in entries if entry["bytes"] is not None)
    index_of = {data: index for index, data in enumerate(different)}
    indices = pa.array([index_of.get(entry["bytes"]) for entry in entries], pa.int32())
    data = pa.DictionaryArray.from_arrays(indices, pa.array(list(different), pa.binary()))
    images = pa.StructArray.from_arrays([data, pa.array([entry["path"] for entry in entries])], ["bytes", "path"])
    ends = accumulate((len(row["images"]) for row in rows), initial=0)
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), images)
    columns = [
        lists if field.name == "images" else pa.array([row[field.name] for row in rows], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


class RowBuilder:
    """Examples -> rows (dicts with the keys of `features()`).

    Args:
        image_folder: where the files named in `Example.images` are; None if all images are embedded.
        mapper: maps regions to tokens; None leaves the four token columns null.
        link_images: store the absolute path of each image instead of its bytes.
    """

    def __init__(
        self, image_folder: Path | None, split: str, mapper: TokenMapper | None = None, link_images: bool = False
    ):
        self.image_folder, self.split, self.mapper, self.link_images = image_folder, split, mapper, link_images
        self._read = lru_cache(maxsize=4)(read_image)  # questions about one image follow each other in most files

    def __reduce__(self) -> tuple[Any, ...]:
        # workers start with an empty cache
        return RowBuilder, (self.image_folder, self.split, self.mapper, self.link_images)

    def __call__(self, example: Example) -> dict[str, Any]:
        """The row; raises RejectedError for an image that cannot be used or a region that does not fit it."""
        _check_text(example)
        images = [self._open(image) for image in example.images]
        sizes = [image.size for image in images]
        regions = heaviest_is_one([_place(region, images, example.drawn_size) for region in example.regions])
        return {
            "id": example.id,
            "prompt": [{"role": "user", "content": example.question}],
            "images": [self._stored(image) for image in images],
            "question": example.question,
            "solution": example.answers[0],
            "answers": list(example.answers),
            "regions": [region.row() for region in regions],
            "has_region": bool(regions),
            "grounding": None,
            **(self.mapper(sizes, regions) if self.mapper else dict.fromkeys(TOKEN_COLUMNS)),
            "image_sizes": [list(size) for size in sizes],
            "question_type": example.question_type,
            "source": example.source,
            "split": self.split,
            "license": example.license,
        }

    def _open(self, image: str | EmbeddedImage) -> ImageFile:
        if isinstance(image, EmbeddedImage):
            return parse_image(image.name, image.data)
        if self.image_folder is None:
            raise PrepareError(f"--images is missing: the rows name image files such as {image}")
        return self._read(self.image_folder, image)

    def _stored(self, image: ImageFile) -> dict[str, Any]:
        if self.link_images and self.image_folder is not None:
            return {"bytes": None, "path": str((self.image_folder / image.name).absolute())}
        return {"bytes": image.data, "path": image.name}


def heaviest_is_one(regions: list[Region]) -> list[Region]:
    """Weights relative to the heaviest region of the row: evidence without an answer beside it counts in full."""
    most = max((region.weight for region in regions), default=1.0)
    return regions if most == 1 else [region._replace(weight=region.weight / most) for region in regions]


def _place(region: Region, images: list[ImageFile], drawn_size: tuple[int, int] | None) -> Region:
    """The region in pixels of the upright picture, clipped to it.

    Regions count in the picture as it is shown, unless the size says that they were drawn on its side.
    """
    if not 0 <= region.image < len(images):
        raise RejectedError("malformed_record", f"a region of image {region.image}, the row has {len(images)}")
    image = images[region.image]
    try:
        if drawn_size is None or drawn_size == image.size:
            return _fit(region, image.size)
        if drawn_size == image.stored_size:
            return _fit(region, image.stored_size).turn(image.stored_size, image.orientation)
    except RejectedError as error:
        raise RejectedError(error.reason, f"{error.detail}; {image.name}") from None
    now, then = ("{}x{}".format(*size) for size in (image.size, drawn_size))
    raise RejectedError("image_size_differs", f"{image.name} is {now}, its boxes were drawn at {then}")


def _fit(region: Region, size: tuple[int, int]) -> Region:
    if region.box is not None and region.space == "pixels" and region.mask is None:
        check_inside(region.box, size)
    return region.fit(size)


def _check_text(example: Example) -> None:
    """JSON can spell half a character ("\\ud800"), which neither parquet nor a file system takes."""
    names = [image if isinstance(image, str) else image.name for image in example.images]
    labels = [region.label for region in example.regions]
    kinds = [example.question_type, example.license]
    try:
        "".join([example.id, example.question, *kinds, *example.answers, *names, *labels]).encode()
    except UnicodeEncodeError as error:
        raise RejectedError("malformed_record", f"text that is not Unicode: {error}") from None
