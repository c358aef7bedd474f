"""Scale on paper: `python -m sayo.preflight.scale > docs/scale.md`.

The shipped Qwen3-VL recipe, priced by the code of `sayo preflight` for 8, 64 and 512 GPUs.
"""

import functools
from collections.abc import Iterator
from itertools import product

from sayo.preflight.estimate import GIB, Estimate, estimate
from sayo.preflight.policy import MetaPolicy, load_config
from sayo.preflight.setting import NO_DATA, TokenCount
from sayo.preflight.show import PAGES
from sayo.preflight.timing import Hardware
from sayo.recipes import Recipe, load_recipe

SIZES = ("8B", "32B")
GPUS = (8, 64, 512)
COMPLETION = 256
PROMPT = TokenCount(visual=768, text=256, mean_visual=768, mean_text=256)


def rows(completions: int | None) -> Iterator[tuple[str, str, Estimate]]:
    """(size, tuning, estimate) with `completions` per step of the whole run, or with the recipe's 64 per GPU."""
    for size, tuning, gpus in product(SIZES, ("full", "LoRA"), GPUS):
        share = (completions or 64 * gpus) // gpus
        micro = min(8, share)
        recipe = _recipe(tuning, per_device_train_batch_size=micro, gradient_accumulation_steps=share // micro)
        yield size, tuning, estimate(recipe, gpus, policy=_policy(size, tuning), tokens=PROMPT)


@functools.cache
def _policy(size: str, tuning: str) -> MetaPolicy:
    return MetaPolicy(_recipe(tuning).model, load_config(f"Qwen/Qwen3-VL-{size}-Instruct"))


def _recipe(tuning: str, **trainer: int) -> Recipe:
    keys = {**trainer, "max_completion_length": COMPLETION}
    lora = ["model.lora=null"] if tuning == "full" else []
    overrides = [f"data.path='{NO_DATA}'", *lora, *(f"trainer.{key}={keys[key]}" for key in keys)]
    return load_recipe("sayo", overrides)


def page() -> str:
    """The page as Markdown."""
    weak, strong = list(rows(None)), list(rows(64 * GPUS[0]))
    values = {"hardware": Hardware(), "prompt": PROMPT, "completion": COMPLETION, "setting": weak[0][2].chosen.setting}
    return PAGES.get_template("scale.md").render(**values, tables=(weak, strong), gib=GIB)


if __name__ == "__main__":
    print(page(), end="")
