"""What to change first when a recipe does not fit, and what each change would save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sayo.preflight.estimate import Estimate, repriced
from sayo.preflight.setting import Setting
from sayo.preflight.tokens import Tokens

WORTHWHILE = 0.995  # of the peak: less than half a percent is no saving


@dataclass(frozen=True)
class Knob:
    """change: as it is typed; peak: bytes on one GPU after this change alone; note: what it costs."""

    change: str
    peak: int
    note: str


def knobs(estimate: Estimate) -> list[Knob]:
    """Changes in the order in which to try them: first those that cost nothing in quality, then the others.

    Each is priced alone. Changes that would not lower the peak are left out.
    """
    found = [
        Knob(change, _peak(estimate, setting, section), note) for change, setting, section, note in _ways(estimate)
    ]
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


def _ways(estimate: Estimate, base: Setting | None = None) -> Iterator[tuple[str, Setting, dict, str]]:
    setting = base or estimate.setting
    model = estimate.recipe.model
    if not setting.checkpointing:
        yield (
            "trainer.gradient_checkpointing=true",
            setting.change(checkpointing=True),
            {},
            "one more forward in every backward",
        )
    if setting.micro_batch > 1:
        yield from _smaller_batch(setting)
    if setting.generates_here and setting.generation_batch > setting.micro_batch:
        yield from _smaller_generation(setting)
    for kind in ("zero1", "zero2", "zero3"):
        if setting.gpus > 1 and _later(kind, setting.sharding):
            note = "gathers the weights in every forward" if kind == "zero3" else "no slower"
            yield f"--config_file recipes/accelerate/{kind}.yaml", setting.change(sharding=kind), {}, note
    if setting.sharding == "zero3" and setting.gather_to_generate and setting.generates_here:
        yield (
            "trainer.ds3_gather_for_generation=false",
            setting.change(gather_to_generate=False),
            {},
            "generation becomes many times slower",
        )
    if setting.vllm_share and not setting.vllm_sleeps:
        yield "trainer.vllm_enable_sleep_mode=true", setting.change(vllm_sleeps=True), {}, "vLLM sleeps while training"
    edge = _smaller_images(estimate, setting)
    if edge:
        yield edge
    if setting.completion_tokens > 64:
        half = setting.completion_tokens // 2
        yield (
            f"trainer.max_completion_length={half}",
            setting.change(completion_tokens=half),
            {},
            "longer answers are cut off",
        )
    if setting.reference == "copy":
        yield "trainer.beta=0", setting.change(reference="none"), {}, "no KL term, no reference model"
    if model.lora is None:
        reference = "adapter off" if setting.reference != "none" else "none"
        lora = {"lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}}
        yield (
            "'model.lora={r: 16, lora_alpha: 32, target_modules: all-linear}'",
            setting.change(reference=reference),
            lora,
            "adapters learn less than all weights",
        )


def _later(kind: str, current: str) -> bool:
    order = ("ddp", "zero1", "zero2", "zero3")
    return current in order and order.index(kind) > order.index(current)


def _smaller_batch(setting: Setting) -> Iterator[tuple[str, Setting, dict, str]]:
    size = setting.micro_batch // 2 if setting.micro_batch % 2 == 0 else 1
    factor = setting.micro_batch // size
    change = setting.change(micro_batch=size, accumulation=setting.accumulation * factor)
    words = (
        f"trainer.per_device_train_batch_size={size} "
        f"trainer.gradient_accumulation_steps={setting.accumulation * factor}"
    )
    yield words, change, {}, "same batch in more, smaller pieces"


def _smaller_generation(setting: Setting) -> Iterator[tuple[str, Setting, dict, str]]:
    """Generate a smaller batch at a time, as long as it still holds whole groups."""
    steps = setting.generation_batch // setting.micro_batch
    half = steps // 2
    if half and steps % 2 == 0 and setting.micro_batch * half * setting.gpus % setting.num_generations == 0:
        change = setting.change(generation_batch=setting.micro_batch * half)
        yield f"trainer.steps_per_generation={half}", change, {}, "generates more often; decoding is less efficient"


def _smaller_images(estimate: Estimate, setting: Setting) -> tuple[str, Setting, dict, str] | None:
    """Half the pixels of the largest image."""
    limit = (estimate.recipe.model.size or {}).get("longest_edge")
    vision = estimate.policy.config.vision_config
    side = vision.patch_size * getattr(vision, "spatial_merge_size", 2)
    if not limit or not setting.longest.visual:
        return None
    most = max(1, limit // 2 // side**2)
    visual = min(setting.longest.visual, most * setting.longest.images)
    smaller = Tokens(setting.longest.text, visual, setting.longest.images)
    note = "prepare the data again; small objects blur"
    return f"model.size.longest_edge={limit // 2}", setting.change(longest=smaller), {}, note
