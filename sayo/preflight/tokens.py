"""Tokens of a prompt: counted in the prepared data, or assumed and said so."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sayo.recipes import DataSection, ModelSection, Recipe, RecipeError

PERCENTILES = (50, 90, 99, 100)
SAMPLED_PROMPTS = 256
NO_DATA = "(none yet)"  # `data.path` of a recipe that is priced before there are data
ASSUMED_TEXT, ASSUMED_VISUAL = 256, 1024


@dataclass(frozen=True)
class Tokens:
    """Of one prompt: text, and visual tokens in `images` images."""

    text: int
    visual: int
    images: int = 1

    @property
    def total(self) -> int:
        return self.text + self.visual


@dataclass(frozen=True)
class TokenCount:
    """visual, text: tokens per sample at `PERCENTILES`, and their mean; `source`: where the numbers come from."""

    visual: dict[str, float]
    text: dict[str, float]
    images: int
    samples: int | None
    source: str

    @property
    def longest(self) -> Tokens:
        return Tokens(round(self.text["p100"]), round(self.visual["p100"]), self.images)

    @property
    def typical(self) -> Tokens:
        return Tokens(round(self.text["mean"]), round(self.visual["mean"]), self.images)


def count_tokens(recipe: Recipe, config: Any) -> TokenCount:
    """Visual tokens of every row, text tokens of the first rows' prompts.

    Without data, or without the `num_visual_tokens` column, one image at the processor's pixel limit is assumed.

    Raises:
        RecipeError: the data that the recipe names cannot be read.
    """
    if recipe.data.path == NO_DATA:
        return assumed(recipe.model, config, "assumed, without data.path")
    try:
        rows = _rows(recipe.data)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"The data of `data.path: {recipe.data.path}` cannot be read: {reason} Leave data.path out to price the "
            "recipe with an assumed image and question."
        ) from None
    names = rows.column_names
    counts = rows["num_visual_tokens"] if "num_visual_tokens" in names else []
    counts = [row for row in counts if row is not None]
    text, how = _text_tokens(recipe, rows)
    if not counts:
        guess = assumed(recipe.model, config, "visual tokens assumed: the data were prepared without a processor")
        return dataclasses.replace(guess, text=text, samples=len(rows))
    visual = spread([sum(row) for row in counts])
    images = max(map(len, counts))
    return TokenCount(visual, text, images, len(rows), f"{len(counts):,} rows of {recipe.data.path}, {how}")


def assumed(model: ModelSection, config: Any, source: str) -> TokenCount:
    """One image at the recipe's pixel limit (`model.size`), and a short question."""
    vision = config.vision_config
    side = getattr(vision, "patch_size", 14) * getattr(vision, "spatial_merge_size", 2)
    limit = (model.size or {}).get("longest_edge")
    visual = math.ceil(limit / side**2) if limit else ASSUMED_VISUAL
    note = f"{source}: one image at its pixel limit, {ASSUMED_TEXT} text tokens"
    return TokenCount(spread([visual]), spread([ASSUMED_TEXT]), 1, None, note)


def spread(values: list[int]) -> dict[str, float]:
    """Percentiles and mean: `{"p50": ..., "p100": ..., "mean": ...}`."""
    numbers = np.asarray(values, dtype=np.float64)
    named = {f"p{percent}": float(np.percentile(numbers, percent)) for percent in PERCENTILES}
    return {**named, "mean": float(numbers.mean())}


def _rows(section: DataSection) -> Any:
    from sayo.training.setup import load_data

    # The system prompt is added below, to the sampled prompts only: mapping all rows would rewrite every image.
    return load_data(section.model_copy(update={"system_prompt": None}), section.split)


def _text_tokens(recipe: Recipe, rows: Any) -> tuple[dict[str, float], str]:
    """Tokens of the rendered prompts, image placeholders left out."""
    columns = [name for name in ("prompt", "messages", "num_visual_tokens") if name in rows.column_names]
    sample = rows.select_columns(columns).select(range(min(SAMPLED_PROMPTS, len(rows))))
    system = [{"role": "system", "content": recipe.data.system_prompt}] if recipe.data.system_prompt else []
    prompts = [[*system, *(row.get("prompt") or row["messages"])] for row in sample]
    images = [len(row.get("num_visual_tokens") or [0]) for row in sample]
    try:
        from sayo.training.setup import load_processor

        processor = load_processor(recipe.model)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:80]
        lengths = [sum(len(_words(message["content"])) for message in prompt) // 4 + 16 for prompt in prompts]
        return spread(lengths), f"text at 4 characters per token (no tokenizer: {reason})"
    texts = [
        processor.apply_chat_template(_with_images(prompt, count), tokenize=False, add_generation_prompt=True)
        for prompt, count in zip(prompts, images, strict=True)
    ]
    lengths = [len(ids) for ids in processor.tokenizer(texts)["input_ids"]]
    return spread([length - count for length, count in zip(lengths, images, strict=True)]), (
        f"{len(texts)} prompts tokenised"
    )


def _with_images(prompt: list[dict], images: int) -> list[dict]:
    """The prompt as the chat template gets it: placeholders of the images in front of the first user message."""
    messages, left = [], images
    for message in prompt:
        content = [{"type": "text", "text": _words(message["content"])}]
        if message["role"] == "user" and left:
            content, left = [*({"type": "image"} for _ in range(left)), *content], 0
        messages.append({"role": message["role"], "content": content})
    return messages


def _words(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.get("text") or "" for part in content)
