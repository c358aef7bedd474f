"""What a recipe asks of one GPU: tokens, batches and passes, in the numbers that memory and time depend on."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from sayo.attention.layers import resolve_layers
from sayo.recipes import Recipe, RecipeError
from sayo.training.generating import QUERY_BYTES
from sayo.training.setup import load_data, trainer_config_class

SHARDINGS = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
NO_DATA = "(none yet)"  # `data.path` of a recipe that is priced before there are data
ASSUMED_TEXT, ASSUMED_VISUAL = 256, 1024
SAMPLED_PROMPTS, BYTES_PER_TOKEN, CHAT_TOKENS = 256, 4, 10  # Qwen's chat template around a question with a picture


@dataclass(frozen=True)
class TokenCount:
    """Tokens of a prompt in `images` images and text: of the longest and the mean row; None samples: no data yet."""

    visual: int
    text: int
    mean_visual: int
    mean_text: int
    images: int = 1
    samples: int | None = None
    source: str = ""


@dataclass(frozen=True)
class Setting:
    """One run on one GPU; the defaults are those of supervised tuning."""

    gpus: int
    sharding: str
    device: str  # "cuda" or "cpu": TRL scores only completion rows where Triton runs, all rows elsewhere
    tokens: TokenCount
    micro_batch: int  # sequences of one forward and backward
    accumulation: int  # micro-batches of one optimizer step
    bf16: bool
    checkpointing: bool
    completion_tokens: int = 0
    generation_batch: int = 0  # sequences that this GPU generates at once
    num_iterations: int = 1  # passes over each generation
    num_generations: int = 1
    objective_layers: int = 0  # decoder layers read with a graph, because the region score is a loss too
    engine: str = "none"  # or "transformers", "vllm colocate", "vllm server"
    reads_generation: bool = False  # attention is read while generating, and no scoring pass runs
    vllm_share: float = 0.0  # of the GPU's memory, taken by a colocated engine
    vllm_sleeps: bool = False
    gather_to_generate: bool = False
    reference: str = "none"  # or "adapter off" (LoRA), "copy" (a second model)

    @property
    def prompt(self) -> int:
        """Tokens of the longest prompt."""
        return self.tokens.visual + self.tokens.text

    @property
    def length(self) -> int:
        """Tokens of the longest prompt with its completion."""
        return self.prompt + self.completion_tokens

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every row has got its completions."""
        completions = self.micro_batch * self.accumulation * self.gpus / self.num_iterations
        return (self.tokens.samples or 0) * self.num_generations / completions

    @property
    def extra_forwards(self) -> tuple[str, ...]:
        """Forward passes beside TRL's own generation and loss."""
        runs = {"scoring": not self.reads_generation, "reference": self.reference != "none"}
        return () if self.engine == "none" else tuple(name for name, does in runs.items() if does)


def setting_of(recipe: Recipe, tokens: TokenCount, config: Any, gpus: int, sharding: str) -> Setting:
    """Read a recipe's trainer section for `gpus` of the whole run; keys it leaves out take the trainer's own defaults.

    Raises:
        RecipeError: generation cannot be divided into groups, or a sharding that is not in `SHARDINGS`.
    """
    if sharding not in SHARDINGS:
        raise RecipeError(f"Unknown sharding {sharding!r}: use one of {', '.join(SHARDINGS)}.")
    fields = dataclasses.fields(trainer_config_class(recipe))  # the config itself would probe devices
    get = {item.name: item.default for item in fields} | recipe.trainer
    micro, accumulation = get["per_device_train_batch_size"], get["gradient_accumulation_steps"]
    bf16 = (not get["fp16"]) if get["bf16"] is None else get["bf16"]
    device, checkpointing = "cpu" if get["use_cpu"] else "cuda", bool(get["gradient_checkpointing"])
    setting = Setting(gpus, sharding, device, tokens, micro, accumulation, bf16, checkpointing)
    if not recipe.rewards:
        return setting
    whole, pieces = get["generation_batch_size"], get["steps_per_generation"] or accumulation
    per_gpu = whole // gpus if whole else micro * pieces
    if per_gpu * gpus % get["num_generations"]:
        raise RecipeError(
            f"One generation holds {per_gpu * gpus} completions, which num_generations={get['num_generations']} does "
            "not divide. Change trainer.num_generations, trainer.per_device_train_batch_size or --gpus."
        )
    engine = f"vllm {get['vllm_mode']}" if get["use_vllm"] else "transformers"
    depth = config.get_text_config().num_hidden_layers
    layers = len(resolve_layers(get["attention_layers"], tuple(range(depth)), depth))
    gathers = bool(get["ds3_gather_for_generation"]) and engine == "transformers"
    # As `sayo.training.reading` and `sayo.training.generating` decide.
    is_aligned = accumulation % (max(1, per_gpu // micro) * get["num_iterations"]) == 0
    is_sharded = sharding == "fsdp2" or (sharding == "zero3" and not gathers)
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries = layers * per_gpu * get["max_completion_length"] * text.num_attention_heads * head_dim
    fits = queries * (2 if bf16 else 4) <= QUERY_BYTES
    return dataclasses.replace(
        setting,
        completion_tokens=get["max_completion_length"],
        generation_batch=per_gpu,
        num_iterations=get["num_iterations"],
        num_generations=get["num_generations"],
        objective_layers=layers if get["objective_weight"] > 0 else 0,
        engine=engine,
        reads_generation=engine == "transformers" and is_aligned and not is_sharded and fits,
        vllm_share=get["vllm_gpu_memory_utilization"] if engine == "vllm colocate" else 0.0,
        vllm_sleeps=bool(get["vllm_enable_sleep_mode"]),
        gather_to_generate=gathers,
        reference="none" if not get["beta"] else "adapter off" if recipe.model.lora is not None else "copy",
    )


def count_tokens(recipe: Recipe, config: Any) -> TokenCount:
    """Visual tokens of every row, at most those of `model.size`; text of the first rows at 4 bytes per token.

    Without data, or without the `num_visual_tokens` column, one image at the processor's pixel limit is assumed.
    """
    limit, vision = (recipe.model.size or {}).get("longest_edge"), config.vision_config
    token_pixels = (vision.patch_size * vision.spatial_merge_size) ** 2
    most = math.ceil(limit / token_pixels) if limit else ASSUMED_VISUAL
    if recipe.data.path == NO_DATA:
        return TokenCount(most, ASSUMED_TEXT, most, ASSUMED_TEXT, source="assumed: one image at its pixel limit")
    # The system prompt is counted below: mapping all rows would rewrite every image.
    rows = load_data(recipe.data.model_copy(update={"system_prompt": None}), recipe.data.split)
    counts = rows["num_visual_tokens"] if "num_visual_tokens" in rows.column_names else []
    counts = [[min(count, most) if limit else count for count in row] for row in counts if row is not None] or [[most]]
    visual = [sum(row) for row in counts]
    column = "prompt" if "prompt" in rows.column_names else "messages"
    prompts = rows.select_columns([column]).select(range(min(SAMPLED_PROMPTS, len(rows))))[column]
    system = len((recipe.data.system_prompt or "").encode())
    text = [(system + sum(map(_text_bytes, prompt))) // BYTES_PER_TOKEN + CHAT_TOKENS for prompt in prompts]
    means = round(sum(visual) / len(visual)), round(sum(text) / len(text))
    source = f"{len(rows):,} rows of {recipe.data.path}"
    return TokenCount(max(visual), max(text), *means, max(map(len, counts)), len(rows), source)


def _text_bytes(message: dict) -> int:
    content = message["content"]
    return len((content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)).encode())
