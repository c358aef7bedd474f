"""Image files as they are: find them safely, read their size from the header, notice when they are cut short.

No pixel of a sound JPEG is decoded: one that stops early lacks its end marker, and only without it is it decoded (at
an eighth of the size) to tell "cut short" from "has harmless bytes behind the end". Other formats are decoded: for too
few pixels, training would end.
"""

import io
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from data_prep.examples import PrepareError, RejectedError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # not those that Pillow hands to other programs
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".JPG", ".JPEG", ".PNG")
_PNG_ORIENTATION_MARKS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")


@dataclass(frozen=True)
class ImageFile:
    """The untouched bytes of one file and the size of the picture that they show.

    Attributes:
        name: path inside the image folder.
        size: (W, H) in pixels after the EXIF orientation is applied.
        stored_size: (W, H) of the pixels as they are stored.
        orientation: EXIF orientation 1..8.
    """

    name: str
    data: bytes
    size: tuple[int, int]
    stored_size: tuple[int, int]
    orientation: int


def find_image(folder: Path, name: str) -> Path:
    """The file `name` in `folder`; a name without suffix gets those of `SUFFIXES` in turn.

    Raises:
        RejectedError: `path_outside_image_dir` (absolute, `..` or a link that leads out) or `missing_image`.
    """
    if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name or "\\" in name:
        raise RejectedError("path_outside_image_dir", f"image name {name!r} does not stay inside the image folder")
    parent = os.path.join(folder, os.path.dirname(name))
    real_parent, listed = list_folder(parent)
    base = os.path.basename(name)
    file = next((base + suffix for suffix in ("", *SUFFIXES) if base + suffix in listed), None)
    if file is None:
        raise RejectedError("missing_image", f"no file {name} or {name}.jpg, .png, ... in the image folder")
    path, root = os.path.join(parent, file), list_folder(str(folder))[0]
    real = real_parent if listed[file] else os.path.realpath(path)
    if os.path.commonpath([real, root]) != root:
        raise RejectedError("path_outside_image_dir", f"{name} is a link that leads out of the image folder")
    return Path(path)


@lru_cache(maxsize=64)
def list_folder(folder: str) -> tuple[str, dict[str, bool]]:
    """(real path of a folder, its files by name, and whether each is a plain file, not a link).

    Read once a run (`list_folder.cache_clear()` starts one): asking the file system for every suffix of every image is
    slow, above all over a network.
    """
    try:
        with os.scandir(folder) as entries:
            files = {entry.name: not entry.is_symlink() for entry in entries if entry.is_file()}
        return os.path.realpath(folder), files
    except (OSError, ValueError):  # no such folder, or a name that no folder can have
        return folder, {}


def read_image(folder: Path, name: str) -> ImageFile:
    """Read a file and its header; raises what `find_image` and `parse_image` raise."""
    path = find_image(folder, name)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RejectedError("missing_image", f"{path.name} was there a moment ago") from None
    except OSError as error:
        raise RejectedError("unreadable_image", f"{path.name}: {error}") from None
    return parse_image(path.relative_to(folder).as_posix(), data)


def parse_image(name: str, data: bytes) -> ImageFile:
    """Read the header of a complete file; else unreadable_image, truncated_image or decompression_bomb."""
    short = name.rpartition("/")[2]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bomb warning: the same limit rejects the row just below
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise RejectedError("decompression_bomb", f"{short}: {error}") from None
    except UnidentifiedImageError:  # its own message names an address in memory, and two runs would differ by it
        detail = f"{short} ({len(data)} bytes) is none of {', '.join(FORMATS)}"
        raise RejectedError("unreadable_image", detail) from None
    except Exception as error:  # a decoder fed with a broken header raises nearly anything
        reason = "truncated_image" if isinstance(error, EOFError) else "unreadable_image"
        raise RejectedError(reason, f"{short} ({len(data)} bytes): {error}") from None
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise RejectedError("decompression_bomb", f"{short} claims {image.width}x{image.height} pixels")
    _check_complete(image, data, short)
    orientation = _orientation(image, data)
    width, height = image.size
    shown = (height, width) if orientation >= 5 else (width, height)
    return ImageFile(name, data, shown, (width, height), orientation)


def bytes_of(entry: dict) -> bytes:
    """The file behind an entry of the `images` column: its bytes, or those of the path that `--link-images` wrote.

    Raises:
        PrepareError: a linked file is gone.
    """
    if entry["bytes"] is not None:
        return entry["bytes"]
    try:
        return Path(entry["path"]).read_bytes()
    except OSError as error:
        raise PrepareError(
            f"the data set links to {entry['path']}, which cannot be read ({error.strerror}); put the images back, or "
            "prepare again without --link-images"
        ) from None


def _check_complete(image: Image.Image, data: bytes, name: str) -> None:
    if image.format == "JPEG" and data.endswith(b"\xff\xd9"):
        return
    try:
        if image.format == "PNG":
            Image.open(io.BytesIO(data)).verify()  # checksums and the last chunk; yet it may hold too few pixels
        probe = Image.open(io.BytesIO(data))
        probe.draft("RGB", (1, 1))  # a JPEG is decoded at an eighth of its size
        probe.load()
    except Exception as error:  # see above: decoders raise nearly anything
        raise RejectedError("truncated_image", f"{name} ({len(data)} bytes): {error}") from None


def _orientation(image: Image.Image, data: bytes) -> int:
    """EXIF orientation. For a PNG, `getexif` decodes all pixels, so it is called only where a tag can be."""
    if image.format == "PNG" and not any(mark in data for mark in _PNG_ORIENTATION_MARKS):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's loaders ignore a broken EXIF block too: the picture is shown as stored
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
