"""One response and where the model looked while it gave it: everything that the page and the picture show."""

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.layers import LayerSpec
from sayo.draw import VIEW_TITLES
from sayo.geometry import VisualCells, VisualLayout
from sayo.metrics.lookback import Span, tag_spans
from sayo.rollout import Completions, generate, given_response, processor_inputs, read_traces, token_texts
from sayo.viz.figures import save_looks
from sayo.viz.look_page import LookError, look_page

HEAD_VALUES = 24_000_000
"""Values of head-by-head maps worth reading: about what fits into a page in its coarsest steps."""


NOTEBOOK_BYTES, NOTEBOOK_HEIGHT = 3_000_000, 760
"""Of the page that a notebook shows, in bytes and pixels."""


class View(NamedTuple):
    """What is shown apart: an image, or the whole picture or the tiles of a tiled one.

    Attributes:
        image: index of the image.
        title: "whole picture" or "tiles"; "" for an image with one view.
        cells: its visual tokens, without those that see no pixel.
        tokens: `(n,)` int64 places of `cells` among the visual tokens of the `Look`.
    """

    image: int
    title: str
    cells: VisualCells
    tokens: np.ndarray


@dataclass(frozen=True, eq=False)
class Look:
    """One response of `T` tokens over `N` visual tokens, and its attention. In a notebook it shows itself.

    Attributes:
        trace: with maps. `look_at` reads the key groups of `sayo.rollout.rollout_groups`; "region" only with regions.
        tokens: `T` strings; joined, they are the response (`sayo.rollout.token_texts`).
        images: the pictures as the processor got them (RGB, EXIF orientation applied).
        cells: one per image (`VisualLayout.cells`); their tokens in order are the `N` visual tokens.
        question, model: to show.
        regions: mappings with `image` (index) and `box` (xyxy in pixels of that image).
        special: `T` bools: control tokens such as the end of the turn; none where it is left out.
        heads: as `trace` with every head as a layer of its own, of as many of the last layers as `HEAD_VALUES` allows;
            None where it allows none.
        origin: how the response was made: "given", "greedy" or its temperature.

    Raises:
        LookError: tokens, maps and cells that do not belong together.
    """

    trace: AttentionTrace
    tokens: list[str]
    images: list[Image.Image]
    cells: list[VisualCells]
    question: str = ""
    model: str = ""
    regions: list[dict[str, Any]] = field(default_factory=list)
    special: list[bool] = field(default_factory=list)
    heads: AttentionTrace | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        trace, count = self.trace, sum(map(len, self.cells))
        if trace.maps is None or trace.tokens is not None or len(trace) == 0:
            raise LookError("to be shown, a trace needs maps (maps=True) and a response that the model chose alone")
        if (len(self.tokens), count) != (len(trace), trace.maps.shape[-1]) or len(self.images) != len(self.cells):
            raise LookError(
                f"{len(self.tokens)} tokens and {len(self.images)} images of {count} cells, but the trace has "
                f"{len(trace)} tokens and {trace.maps.shape[-1]} visual tokens: give those of the same sequence"
            )

    def _repr_html_(self) -> str:
        """The page of `sayo look` in a frame; it needs no network."""
        page = html.escape(look_page({"": self}, NOTEBOOK_BYTES))
        style = f"width: 100%; height: {NOTEBOOK_HEIGHT}px; border: 0"
        return f'<iframe title="where the model looks" style="{style}" srcdoc="{page}"></iframe>'

    def plot(self, token: int | None = None, values: np.ndarray | None = None) -> Image.Image:
        """A picture of the map of one response token, of the whole response, or of `(N,)` values of your own."""
        buffer = io.BytesIO()
        save_looks({"": self}, buffer, dpi=110, token=token, values=values)
        return Image.open(buffer)

    def spans(self) -> dict[str, Span]:
        """Half-open token ranges inside `<think>`, `<answer>` and other tags, by the tag's name; of several the last.

        `look.trace.mass("image", "deciding")[:, slice(*look.spans()["answer"])]`
        """
        return tag_spans(self.tokens)

    @property
    def colored(self) -> str:
        """The key group that colours the response: "region", or "image" without regions."""
        return "region" if self.trace.has_region else "image"

    def views(self) -> list[View]:
        views, start = [], 0
        for image, cells in enumerate(self.cells):
            seen = ~np.isnan(cells.footprints).any(axis=1)
            shown = np.unique(cells.views[seen])
            for view in shown:
                title = VIEW_TITLES[view] if len(shown) > 1 else ""
                inside = np.flatnonzero(seen & (cells.views == view))
                part = VisualCells(cells.footprints[inside], cells.views[inside], cells.image_size)
                views.append(View(image, title, part, start + inside))
            start += len(cells)
        return views


def look_at(
    model: nn.Module,
    processor: Any,
    images: Sequence[Image.Image],
    question: str,
    *,
    regions: Sequence[Mapping[str, Any]] = (),
    layers: LayerSpec = "all",
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    response: str | None = None,
    system_prompt: str | None = None,
    name: str = "",
) -> Look:
    """Let the model answer (or take a given response) and read where it looks at every token.

    Only the rows of the response are read: no array is larger than rows x keys.

    Args:
        model, processor: any vision-language model whose layout `sayo.geometry` knows.
        images: at least one; placed before the question.
        regions: mappings with `box` (xyxy in pixels) and, with several images, `image`.
        response: text to read instead of sampling.

    Raises:
        ValueError: no image, a bad box, a response without tokens, or an image the layout cannot map.
    """
    if not images:
        raise LookError("`look_at` needs at least one image.")
    if response == "":
        raise LookError("the given response has no tokens; leave it out to let the model answer")
    images = [ImageOps.exif_transpose(image).convert("RGB") for image in images]
    prompt = [{"role": "system", "content": system_prompt}] if system_prompt else []
    row = {"prompt": [*prompt, {"role": "user", "content": question}], "images": images}
    try:
        inputs = processor_inputs(processor, [row], model.device)
    except ValueError as error:  # such as a picture that is too thin
        raise LookError(f"the model's processor refuses the picture: {error}") from error
    layout = VisualLayout.from_processor(processor, model.config)
    # The number of tokens of a single image is known, which checks the layout.
    count = int((inputs["input_ids"] == model.config.image_token_id).sum()) if len(images) == 1 else None
    cells = [layout.cells(*image.size, len(images), count) for image in images]
    row |= layout.sample([image.size for image in images], regions)
    was_training = model.training
    model.eval()
    try:
        if response is None:
            options = {"max_new_tokens": max_new_tokens, "temperature": temperature}
            completions = generate(model, processor, inputs, **options, keep_cache=True)
        else:
            completions = given_response(processor.tokenizer, response, model.device)
        trace, heads = _read(model, processor, inputs, completions, row, layers, temperature)
    finally:
        model.train(was_training)
    ids, special = completions.ids[0].tolist(), set(processor.tokenizer.all_special_ids)
    return Look(
        model=name,
        question=question,
        images=images,
        cells=cells,
        regions=[{"image": int(r.get("image") or 0), "box": list(map(float, r["box"]))} for r in regions],
        tokens=token_texts(processor.tokenizer, ids),
        special=[token_id in special for token_id in ids],
        trace=trace,
        heads=heads,
        origin="given" if response is not None else "greedy" if not temperature else f"T = {temperature:g}",
    )


def _read(
    model: nn.Module,
    processor: Any,
    inputs: Mapping[str, torch.Tensor],
    completions: Completions,
    row: Mapping[str, Any],
    layers: LayerSpec,
    temperature: float,
) -> tuple[AttentionTrace, AttentionTrace | None]:
    """`trace` and `heads` of a `Look`, from one pass: a layer is read by one of two captures."""
    every = AttentionCapture(model, layers=layers).layers
    num_heads, length = model.config.get_text_config().num_attention_heads, completions.ids.shape[1]
    num_layers = HEAD_VALUES // (num_heads * (length + 1) * sum(row["num_visual_tokens"]))
    first = max(0, len(every) - num_layers)
    captures = [
        AttentionCapture(model, layers=list(part), maps=True, per_head=per_head)
        for part, per_head in ((every[:first], False), (every[first:], True))
        if part
    ]
    traces = [trace for (trace,) in read_traces(model, processor, inputs, completions, [row], captures, temperature)]

    def averaged(arrays: Sequence[np.ndarray]) -> np.ndarray:
        parts = zip(traces, arrays, strict=True)
        return np.concatenate(
            [array.reshape(len(set(trace.layers)), -1, *array.shape[1:]).mean(axis=1) for trace, array in parts]
        )

    masses = {name: averaged([trace.masses[name] for trace in traces]) for name in traces[0].masses}
    trace = replace(traces[0], masses=masses, layers=every, maps=averaged([trace.maps for trace in traces]))
    return trace, traces[-1] if first < len(every) else None
