"""Settings of a region-attention GRPO run: TRL's own, plus the few that say what attention is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from trl import GRPOConfig

from sayo.attention.trace import Rows
from sayo.metrics.region import Select


@dataclass
class RegionGRPOConfig(GRPOConfig):
    """TRL's [`~trl.GRPOConfig`] plus the reading of attention; every other key is TRL's.

    > Parameters that control the reading of attention

    attention_layers (`str`, `int`, `float` or `list`, *optional*, defaults to `"last"`):
        Decoder layers to read: `"last"`, `"all"`, an index (negative counts from the end), a range `"4-7"`, a
        fraction of the depth such as `0.5`, or a list of those.
    attention_byte_budget (`int`, *optional*, defaults to 64 MiB):
        Upper bound in bytes of one block of attention scores; rows are read in chunks below it.
    overlay_steps (`int`, *optional*, defaults to `0`):
        Every this many steps, a picture of the attention over the image is written to `output_dir/overlays`
        (and to wandb where it is on). 0 turns it off.
    overlay_samples (`int`, *optional*, defaults to `4`):
        Completions in one overlay picture.
    attention_map_budget (`int`, *optional*, defaults to 256 MiB):
        Upper bound in bytes of the attention on single visual tokens that is kept of one generation batch on one
        process: `4 x layers x completions x (max_completion_length + 1) x visual tokens`. Where they fit, attention
        without sinks is logged; a shaper that needs them stops the run where they do not.

    > Parameters that control what the attention is used for

    objective_weight (`float`, *optional*, defaults to `0.0`):
        Weight of the region score as an objective in the loss. 0 turns it off. The layers are `attention_layers`.
    objective_warmup_steps (`int`, *optional*, defaults to `0`):
        Optimizer steps over which that weight rises linearly from 0.
    objective_rows (`str`, *optional*, defaults to `"of_token"`), objective_select (`str`, *optional*, defaults to
    `"top_entropy"`), objective_top_share (`float`, *optional*, defaults to `0.3`):
        Rows that the objective reads, as `rows`, `select` and `top_share` of `region_attention_reward`. Give both the
        same where both are used.
    reward_gates (`list[str]`, *optional*):
        When each reward is paid: `"always"`, `"correct"` (to completions that the accuracy reward pays) or `"group"`
        (in groups with such a completion). Must match the number of reward functions.
    advantage_std_floor (`float`, *optional*, defaults to `0.0`):
        The standard deviation that advantages are divided by counts as at least this. 0 is TRL's own.
    """

    attention_layers: str | int | float | list = field(
        default="last",
        metadata={"help": "Decoder layers to read: 'last', 'all', an index, a range '4-7', a fraction, or a list."},
    )
    attention_byte_budget: int = field(
        default=64 * 2**20, metadata={"help": "Upper bound in bytes of one block of attention scores."}
    )
    overlay_steps: int = field(
        default=0, metadata={"help": "Write an attention overlay picture every this many steps; 0 turns it off."}
    )
    overlay_samples: int = field(default=4, metadata={"help": "Completions in one overlay picture."})
    attention_map_budget: int = field(
        default=256 * 2**20, metadata={"help": "Upper bound in bytes of the kept attention on single visual tokens."}
    )
    objective_weight: float = field(
        default=0.0, metadata={"help": "Weight of the region score as an objective in the loss; 0 turns it off."}
    )
    objective_warmup_steps: int = field(
        default=0, metadata={"help": "Optimizer steps over which the objective's weight rises from 0."}
    )
    objective_rows: str = field(
        default="of_token", metadata={"help": "Rows that the objective reads: 'of_token' or 'deciding'."}
    )
    objective_select: str = field(
        default="top_entropy", metadata={"help": "'top_entropy', 'all' or 'entropy_weighted', as the reward's."}
    )
    objective_top_share: float = field(default=0.3, metadata={"help": "Share of the tokens for 'top_entropy'."})
    reward_gates: list[str] | None = field(
        default=None, metadata={"help": "When each reward is paid: 'always', 'correct' or 'group'."}
    )
    advantage_std_floor: float = field(
        default=0.0, metadata={"help": "Least standard deviation that advantages are divided by; 0 is TRL's own."}
    )

    def __post_init__(self):
        self._check_attention_settings()
        try:
            super().__post_init__()
        except ValueError as error:
            if "must be divisible by" not in str(error):
                raise
            raise ValueError(f"{error} {self._sizes_that_work()}") from None

    def _check_attention_settings(self) -> None:
        choices = {"objective_rows": get_args(Rows), "objective_select": get_args(Select)}
        for key, known in choices.items():
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}; got {getattr(self, key)!r}.")
        for key in ("objective_weight", "objective_warmup_steps", "advantage_std_floor"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}.")
        sums_first = self.multi_objective_aggregation == "sum_then_normalize"
        if self.advantage_std_floor and self.scale_rewards in ("none", False) and sums_first:
            raise ValueError("advantage_std_floor has no effect with scale_rewards='none': leave one of them out.")
        self.check_objective_has_a_graph()

    def check_objective_has_a_graph(self) -> None:
        """Raise where gradient checkpointing would take the graph of the attention away.

        The trainer asks again: TRL makes checkpointing reentrant for an adapter under ZeRO-3.
        """
        reentrant = (self.gradient_checkpointing_kwargs or {}).get("use_reentrant")
        if self.objective_weight and self.gradient_checkpointing and reentrant:
            raise ValueError(
                "objective_weight needs the graph of the attention, which reentrant gradient checkpointing does not "
                "keep: set gradient_checkpointing_kwargs={'use_reentrant': False}. For an adapter under ZeRO-3, TRL "
                "allows only the reentrant kind: take ZeRO-2 (recipes/accelerate/zero2.yaml), or "
                "gradient_checkpointing=false."
            )

    def _sizes_that_work(self) -> str:
        """Name the numbers near the user's own that TRL can divide into whole groups."""
        steps = self.steps_per_generation or self.gradient_accumulation_steps
        per_rank = self.per_device_train_batch_size
        batch = per_rank * self.world_size * steps
        groups = [size for size in range(2, batch + 1) if batch % size == 0]
        batches = [size for size in range(1, 4 * per_rank + self.num_generations) if self._divides(size, steps)]
        nearest = sorted(sorted(batches, key=lambda size: abs(size - per_rank))[:4])
        return (
            f"One generation holds per_device_train_batch_size x processes x steps_per_generation = {per_rank} x "
            f"{self.world_size} x {steps} = {batch} completions. What would work: num_generations in {groups}, or, "
            f"with num_generations={self.num_generations}, per_device_train_batch_size in {nearest}."
        )

    def _divides(self, per_rank: int, steps: int) -> bool:
        return per_rank * self.world_size * steps % self.num_generations == 0
