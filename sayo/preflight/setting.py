"""What a recipe asks of one GPU, in the numbers that memory and time depend on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sayo.preflight.tokens import Tokens
from sayo.recipes import Recipe, RecipeError
from sayo.training.setup import trainer_config_class

SHARDINGS = ("ddp", "zero1", "zero2", "zero3", "fsdp2")


@dataclass(frozen=True)
class Setting:
    """One run on one GPU.

    gpus: in the whole run.
    sharding: one of `SHARDINGS`.
    device: `"cuda"` or `"cpu"` (TRL scores only completion rows where Triton runs, all rows elsewhere).
    micro_batch: sequences of one forward and backward.
    accumulation: micro-batches of one optimizer step.
    generation_batch: sequences that this GPU generates at once; 0 for supervised tuning.
    num_iterations: optimisation passes over each generation.
    prompt_tokens: of a sequence, its visual tokens included; `longest` for memory, `typical` for time.
    reading_layers: decoder layers whose attention is read in the scoring pass.
    maps: overlays are on, so attention on every visual token is kept now and then.
    objective: the region score is a loss too, so those layers are read once more, with a graph.
    engine: `"transformers"`, `"vllm colocate"`, `"vllm server"`, or `"none"` for supervised tuning.
    reference: `"none"`, `"adapter off"` (LoRA) or `"copy"` (a second model).
    """

    gpus: int
    sharding: str
    device: str
    micro_batch: int
    accumulation: int
    generation_batch: int
    num_iterations: int
    num_generations: int
    longest: Tokens
    typical: Tokens
    completion_tokens: int
    bf16: bool
    checkpointing: bool
    reading_layers: int
    maps: bool
    byte_budget: int
    engine: str
    vllm_share: float
    vllm_sleeps: bool
    gather_to_generate: bool
    reference: str
    objective: bool = False
    samples: int | None = None
    epochs: float = 1.0
    max_steps: int = -1

    @property
    def generates_here(self) -> bool:
        """Completions are sampled by the policy itself, in this process."""
        return self.engine == "transformers"

    @property
    def extra_forwards(self) -> tuple[str, ...]:
        """Forward passes beside TRL's own generation and loss."""
        if self.engine == "none":
            return ()
        return ("scoring",) if self.reference == "none" else ("scoring", "reference")

    def change(self, **values: Any) -> Setting:
        return dataclasses.replace(self, **values)


def setting_of(
    recipe: Recipe, longest: Tokens, typical: Tokens, num_layers: int, samples: int | None = None, **launch: Any
) -> Setting:
    """Read a recipe's trainer section; keys it leaves out take the trainer's own defaults.

    Args:
        longest, typical: tokens of the longest and of the mean prompt.
        num_layers: of the text decoder.
        samples: rows of the training split, or None when there are no data yet.
        launch: `gpus`, `sharding`, `device`.

    Raises:
        RecipeError: generation cannot be divided into groups, or an unknown sharding.
    """
    if launch["sharding"] not in SHARDINGS:
        raise RecipeError(f"Unknown sharding {launch['sharding']!r}: use one of {', '.join(SHARDINGS)}.")
    get = _Trainer(recipe)
    micro, accumulation = get("per_device_train_batch_size"), get("gradient_accumulation_steps")
    shared = {
        **launch,
        "micro_batch": micro,
        "accumulation": accumulation,
        "longest": longest,
        "typical": typical,
        "bf16": (not get("fp16")) if get("bf16") is None else get("bf16"),
        "checkpointing": bool(get("gradient_checkpointing")),
        "samples": samples,
        "epochs": get("num_train_epochs"),
        "max_steps": get("max_steps"),
    }
    if not recipe.rewards:
        return Setting(**shared, **_SUPERVISED)
    generation = get("generation_batch_size")
    steps = get("steps_per_generation") or accumulation
    per_gpu = generation // launch["gpus"] if generation else micro * steps
    if per_gpu * launch["gpus"] % get("num_generations"):
        raise RecipeError(
            f"One generation holds {per_gpu * launch['gpus']} completions, which num_generations="
            f"{get('num_generations')} does not divide. Change trainer.num_generations, "
            "trainer.per_device_train_batch_size or --gpus."
        )
    mode = f"vllm {get('vllm_mode')}"
    return Setting(
        **shared,
        generation_batch=per_gpu,
        num_iterations=get("num_iterations"),
        num_generations=get("num_generations"),
        completion_tokens=get("max_completion_length"),
        reading_layers=_count_layers(get("attention_layers"), num_layers),
        maps=get("overlay_steps") > 0,
        objective=get("objective_weight") > 0,
        byte_budget=get("attention_byte_budget"),
        engine=mode if get("use_vllm") else "transformers",
        vllm_share=get("vllm_gpu_memory_utilization") if get("use_vllm") and mode == "vllm colocate" else 0.0,
        vllm_sleeps=bool(get("vllm_enable_sleep_mode")),
        gather_to_generate=bool(get("ds3_gather_for_generation")),
        reference="none" if not get("beta") else "adapter off" if recipe.model.lora is not None else "copy",
    )


_SUPERVISED = {
    "generation_batch": 0,
    "num_iterations": 1,
    "num_generations": 1,
    "completion_tokens": 0,
    "reading_layers": 0,
    "maps": False,
    "byte_budget": 0,
    "engine": "none",
    "vllm_share": 0.0,
    "vllm_sleeps": False,
    "gather_to_generate": False,
    "reference": "none",
}


class _Trainer:
    """A trainer key's value in the recipe, else the default of its field (the config itself would probe devices)."""

    def __init__(self, recipe: Recipe):
        self._values = recipe.trainer
        self._fields = {item.name: item for item in dataclasses.fields(trainer_config_class(recipe))}

    def __call__(self, key: str) -> Any:
        if key in self._values:
            return self._values[key]
        item = self._fields[key]
        return item.default_factory() if item.default is dataclasses.MISSING else item.default


def _count_layers(spec: Any, num_layers: int) -> int:
    from sayo.attention.layers import resolve_layers

    try:
        return len(resolve_layers(spec, tuple(range(num_layers)), num_layers))
    except ValueError as error:
        raise RecipeError(f"`trainer.attention_layers: {spec}`: {error}") from None
