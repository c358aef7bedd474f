"""VisualLayout: the layout of one processor, read from its files or from live objects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from sayo.geometry.cells import LayoutError, VisualCells
from sayo.geometry.families import FAMILIES
from sayo.geometry.regions import region_tokens
from sayo.geometry.settings import Json, with_limits


@dataclass(frozen=True)
class VisualLayout:
    """How one processor of one family turns images into visual tokens; builds cells without running the processor."""

    family: str  # transformers' `config.model_type`
    builder: Any  # the family's builder with the settings read (see `sayo.geometry.families`)

    @classmethod
    def from_pretrained(
        cls, model_id_or_dir: str | Path, images_kwargs: Json | None = None, size: Mapping[str, int] | None = None
    ) -> "VisualLayout":
        """Read config.json and (pre)processor_config.json of a local directory or a hub id; nothing else is loaded.

        Args:
            model_id_or_dir: a directory, or a hub id such as "Qwen/Qwen3-VL-4B-Instruct".
            images_kwargs: image settings that the processor will get at each call (e.g. `{"do_pan_and_scan": True}`).
            size: edges that replace the saved ones (a recipe's `model.size`).

        Raises:
            FileNotFoundError: a file is missing.
            LayoutError: a family without a builder, or settings without a layout.
        """
        config = _read_json(model_id_or_dir, "config.json")
        if config is None:
            raise FileNotFoundError(f"{model_id_or_dir} has no config.json; save the model's config there first")
        processor = _read_json(model_id_or_dir, "processor_config.json") or {}
        image_processor = processor.get("image_processor")
        if image_processor is None:  # files written before transformers 5 keep it apart
            image_processor = _read_json(model_id_or_dir, "preprocessor_config.json")
        if image_processor is None:
            raise FileNotFoundError(
                f"{model_id_or_dir} has neither an image_processor in processor_config.json nor a "
                "preprocessor_config.json; save the processor there with processor.save_pretrained"
            )
        try:
            overrides = {**(processor.get("images_kwargs") or {}), **(images_kwargs or {})}
            if size:
                image_processor = with_limits(image_processor, size)
            layout = cls._from_settings(image_processor, config, overrides)
            if not len(layout.cells(336, 336)):  # what is no use, such as a patch_size of 0, shows with a picture
                raise ValueError("a picture has no visual token")
        except LayoutError:
            raise
        except (TypeError, KeyError, AttributeError, IndexError, ArithmeticError, ValueError) as error:
            raise LayoutError(
                f"config.json and the processor's files of {model_id_or_dir} hold settings that make no layout "
                f"({type(error).__name__}: {error}); save the processor and the config there again"
            ) from None
        return layout

    @classmethod
    def from_processor(cls, processor: Any, model_config: Any, images_kwargs: Json | None = None) -> "VisualLayout":
        """Read a live processor (or image processor) and model config; any back-end gives the same layout.

        Args:
            processor: transformers processor, or its image processor alone.
            images_kwargs: as for `from_pretrained`.

        Raises:
            LayoutError: a family without a builder, or settings without a layout.
        """
        image_processor = getattr(processor, "image_processor", processor)
        overrides = {**(getattr(processor, "images_kwargs", None) or {}), **(images_kwargs or {})}
        return cls._from_settings(image_processor.to_dict(), model_config.to_dict(), overrides)

    @classmethod
    def from_fingerprint(cls, fingerprint: str) -> "VisualLayout":
        """The layout of a `processor_fingerprint` of prepared data, without the processor's files.

        Raises:
            LayoutError: a family or a setting that this version does not know.
        """
        settings = json.loads(fingerprint)
        family = settings.pop("family")
        own = FAMILIES.get(family)
        builders = (own, *getattr(own, "alternatives", ())) if own else ()
        builder = next((one for one in builders if {field.name for field in fields(one)} == set(settings)), None)
        if builder is None:
            raise LayoutError(f"the data were prepared for a layout that this version does not know: {fingerprint}")
        return cls(family, builder(**{name: _frozen(value) for name, value in settings.items()}))

    @classmethod
    def _from_settings(cls, image_processor: Json, config: Json, images_kwargs: Json) -> "VisualLayout":
        family = config.get("model_type")
        if family not in FAMILIES:
            raise LayoutError(
                f"family {family!r} has no layout of its own: write a builder with read() and cells() for it in "
                "sayo/geometry/families.py, add it to FAMILIES and to the test table in tests/geometry; "
                "VisualLayout.from_pretrained and from_processor then read it"
            )
        # As at a call: the processor's own image settings come before those of its image processor.
        processor_settings = getattr(FAMILIES[family], "processor_settings", {})
        settings = {**image_processor, **processor_settings, **images_kwargs}
        if settings.get("do_resize") is False:
            raise LayoutError(f"{family}: do_resize=False has no fixed layout; leave resizing to the image processor")
        return cls(family, FAMILIES[family].read(settings, config))

    def cells(self, width: int, height: int, num_images: int = 1, count: int | None = None) -> VisualCells:
        """Cells of one image.

        Args:
            width, height: size in pixels of the image that the processor gets (after EXIF rotation).
            num_images: number of images of the sample; only LLaVA-OneVision lays several images out differently.
            count: number of visual tokens that the processor made for the image, if known: checked.

        Raises:
            LayoutError: a side below one pixel, an aspect ratio that the processor refuses, or a wrong count.
        """
        if min(width, height) < 1:
            raise LayoutError(
                f"image size {width} x {height} (W x H): both sides must be at least 1 pixel; drop this image"
            )
        cells = self.builder.cells(width, height, num_images)
        if count is not None and len(cells) != count:
            raise LayoutError(
                f"the {self.family} layout has {len(cells)} visual tokens for a {width} x {height} image, the "
                f"processor made {count}: build the layout from the same processor (VisualLayout.from_processor), or "
                "map the data set again with that processor"
            )
        return cells

    def sample(self, sizes: Sequence[tuple[int, int]], regions: Sequence = ()) -> dict[str, list]:
        """`region_tokens`, `region_weights` and `num_visual_tokens`: an entry of `AttentionCapture(samples=[...])`.

        Args:
            sizes: `(W, H)` of each image of the sample, in pixels.
            regions: boxes, masks or `Region`s (see `region_tokens`); without any, the first two are empty.

        Raises:
            LayoutError, RegionError: of `cells` and `region_tokens`.
        """
        cells = [self.cells(*size, len(sizes)) for size in sizes]
        tokens, weights = region_tokens(cells, regions) if len(regions) else ([], [])
        found = {"region_tokens": list(map(int, tokens)), "region_weights": list(map(float, weights))}
        return {**found, "num_visual_tokens": list(map(len, cells))}

    @cached_property
    def fingerprint(self) -> str:
        """Canonical JSON (sorted keys) of everything that `cells` depends on and nothing else."""
        return json.dumps({"family": self.family, **asdict(self.builder)}, sort_keys=True)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _read_json(model_id_or_dir: str | Path, name: str) -> Json | None:
    """A JSON file of a local directory or a hub repository; None if it has no such file."""
    if Path(model_id_or_dir).is_dir():
        path = Path(model_id_or_dir) / name
        return _json_object(path) if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        return _json_object(Path(hf_hub_download(str(model_id_or_dir), name)))
    except HFValidationError as error:
        raise FileNotFoundError(f"{model_id_or_dir} is neither a directory nor a hub id") from error
    except LocalEntryNotFoundError as error:
        if name == "config.json":
            raise FileNotFoundError(
                f"{model_id_or_dir} is not a local directory, and its {name} is neither in the hub cache nor could it "
                "be fetched; check the path or the network"
            ) from error
        return None  # offline: a file that was never cached counts as one that does not exist
    except EntryNotFoundError:
        return None


def _json_object(path: Path) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also not UTF-8
        raise LayoutError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise LayoutError(f"{path} holds a {type(value).__name__}, expected an object with settings")
    return value
