"""What to change first when a recipe does not fit, and what each change would save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sayo.preflight.estimate import Estimate, repriced
from sayo.preflight.policy import load_config
from sayo.preflight.setting import Setting, setting_of
from sayo.preflight.tokens import Tokens
from sayo.preflight.ways import Way, ways
from sayo.recipes import Recipe

WORTHWHILE = 0.995  # of the peak: less than half a percent is no saving


@dataclass(frozen=True)
class Knob:
    """change: as it is typed; peak: bytes on one GPU after this change alone; note: what it costs."""

    change: str
    peak: int
    note: str


def out_of_memory_advice(recipe: Recipe, num_processes: int, sharding: str) -> str:
    """What to change in a recipe that ran out of memory, one numbered line per change, the first to try first.

    Args:
        sharding: `"none"`, `"DDP"`, `"ZeRO-1"` to `"ZeRO-3"` or `"FSDP"`, however it is spelt.
    """
    kind = sharding.lower().replace("-", "")
    launch = {"gpus": num_processes, "sharding": {"none": "ddp", "fsdp": "fsdp2"}.get(kind, kind), "device": "cuda"}
    layers = load_config(recipe.model.name_or_path).get_text_config().num_hidden_layers
    unknown = Tokens(text=1, visual=1)  # which changes there are does not depend on token counts
    setting = setting_of(recipe, unknown, unknown, layers, **launch)
    changes = [f"  {i}. {way.change} ({way.note})" for i, way in enumerate(ways(setting, recipe.model, 1), 1)]
    return "\n".join(["Change, in this order, until it fits (`sayo preflight` prices each):", *changes])


def knobs(estimate: Estimate) -> list[Knob]:
    """Changes in the order in which to try them: first those that cost nothing in quality, then the others.

    Each is priced alone. Changes that would not lower the peak are left out.
    """
    found = [Knob(way.change, _peak(estimate, way.setting, way.section), way.note) for way in _ways(estimate)]
    return [knob for knob in found if knob.peak < WORTHWHILE * estimate.memory.peak]


def combined(estimate: Estimate) -> tuple[list[str], int] | None:
    """Knobs turned one after the other until the recipe fits, and the peak then. None if it never does.

    Always the first one in the order that lowers what the earlier ones left; each once, and of several launch
    configurations the last one counts.
    """
    setting, section, turned, peak = estimate.setting, {}, {}, estimate.memory.peak
    while peak > estimate.available:
        for change, changed, also, _ in _ways(estimate, setting):
            key = _key(change)
            if key in turned and key != "--config_file":
                continue
            lower = _peak(estimate, changed, {**section, **also})
            if lower < WORTHWHILE * peak:
                setting, section, peak = changed, {**section, **also}, lower
                turned[key] = change
                break
        else:
            return None
    return list(turned.values()), peak


def _key(change: str) -> str:
    return change.split("=")[0].split(" ")[0].strip("'")


def _peak(estimate: Estimate, setting: Setting, section: dict) -> int:
    return repriced(estimate, setting, **section).peak


def _ways(estimate: Estimate, setting: Setting | None = None) -> Iterator[Way]:
    vision = estimate.policy.config.vision_config
    side = vision.patch_size * getattr(vision, "spatial_merge_size", 2)
    return ways(setting or estimate.setting, estimate.recipe.model, side**2)
