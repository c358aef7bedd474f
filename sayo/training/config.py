"""Settings of a run: TRL's own, plus the few that say what attention is captured and what it is used for."""

from dataclasses import dataclass
from typing import Any, get_args

from trl import GRPOConfig, SFTConfig

from sayo.attention.trace import Rows
from sayo.metrics.region import Select

FORMS = ("score", "divergence")
ANCHORED_ROWS = ("response", "question", "both")


@dataclass
class RegionGRPOConfig(GRPOConfig):
    """TRL's [`~trl.GRPOConfig`] plus the capture of attention and its uses; every other key is TRL's.

    attention_layers: decoder layers to read: `"last"`, `"all"`, an index (negative counts from the end), a range
        `"4-7"`, a fraction of the depth such as `0.5`, or a list of those.
    attention_byte_budget: upper bound in bytes of one block of attention scores; rows are read in chunks below it.
    attention_map_budget: upper bound in bytes of the attention on single visual tokens that is kept of one generation
        batch on one process: `4 x layers x completions x (max_completion_length + 1) x visual tokens`. Where they
        fit, attention without sinks is logged; a shaper that needs them stops the run where they do not.
    overlay_steps: every this many steps, a picture of the attention over the image is written to
        `output_dir/overlays` (and sent to the trackers that show pictures). 0 turns it off.
    objective_weight: weight of the attention on the region as an objective in the loss (layers: `attention_layers`);
        0 is off.
    objective_form: `"score"`, the region score (SAYO's reward), or `"divergence"`, the divergence from a smoothed
        region (EASE-style).
    objective_gate: whose attention it trains: `"always"`, or `"correct"`: completions that the accuracy reward pays.
    objective_warmup_steps: optimizer steps over which that weight rises linearly from 0.
    objective_rows, objective_select, objective_top_share: rows that the objective reads, as `rows`, `select` and
        `top_share` of `region_attention_reward`. Give both the same where both are used.
    reward_gates: when each reward is paid: `"always"`, `"correct"` (to completions that the accuracy reward pays) or
        `"group"` (in groups with such a completion); one for every reward function, or None for always.
    advantage_std_floor: the standard deviation that advantages are divided by counts as at least this; 0 is TRL's own.
    reward_timeout: seconds that a reward function may take for one batch before the run stops with its name; None for
        no limit.
    max_sampling_difference: a run with vLLM stops when sampled and scored log-probabilities differ by more than this
        many nats a token on average; None never stops it. bfloat16 alone makes some .01 to .03, top_p=.9 up to .1.
    """

    attention_layers: str | int | float | list = "last"
    attention_byte_budget: int = 64 * 2**20
    attention_map_budget: int = 256 * 2**20
    overlay_steps: int = 0
    objective_weight: float = 0.0
    objective_form: str = "score"
    objective_gate: str = "always"
    objective_warmup_steps: int = 0
    objective_rows: str = "of_token"
    objective_select: str = "top_entropy"
    objective_top_share: float = 0.3
    reward_gates: list[str] | None = None
    advantage_std_floor: float = 0.0
    reward_timeout: float | None = 600.0
    max_sampling_difference: float | None = 0.2

    def __post_init__(self):
        options = {"objective_form": FORMS, "objective_gate": ("always", "correct")}
        options |= {"objective_rows": get_args(Rows), "objective_select": get_args(Select)}
        for key, known in options.items():
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}; got {getattr(self, key)!r}.")
        _check_not_negative(self, "objective_weight", "objective_warmup_steps", "advantage_std_floor")
        if self.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns=True takes away the columns that the rewards read (region_tokens, answers, "
                "...), and every attention reward would be None: leave it False, and remove columns from the data set."
            )
        sums_first = self.multi_objective_aggregation == "sum_then_normalize"
        if self.advantage_std_floor and self.scale_rewards in ("none", False) and sums_first:
            raise ValueError("advantage_std_floor has no effect with scale_rewards='none': leave one of them out.")
        check_graph(self, self.objective_weight > 0)
        try:
            super().__post_init__()
        except ValueError as error:
            if "must be divisible by" not in str(error):
                raise
            raise ValueError(f"{error} {self._sizes_that_work()}") from None

    def _sizes_that_work(self) -> str:
        """Name the numbers near the user's own that TRL can divide into whole groups."""
        steps = self.steps_per_generation or self.gradient_accumulation_steps
        per_rank, group = self.per_device_train_batch_size, self.num_generations
        batch = per_rank * self.world_size * steps
        groups = [size for size in range(2, batch + 1) if batch % size == 0]
        batches = [size for size in range(1, 4 * per_rank + group) if size * self.world_size * steps % group == 0]
        nearest = sorted(sorted(batches, key=lambda size: abs(size - per_rank))[:4])
        return (
            f"One generation holds per_device_train_batch_size x processes x steps_per_generation = {per_rank} x "
            f"{self.world_size} x {steps} = {batch} completions. What would work: num_generations in {groups}, or, "
            f"with num_generations={group}, per_device_train_batch_size in {nearest}."
        )


@dataclass
class AnchoredSFTConfig(SFTConfig):
    """TRL's [`~trl.SFTConfig`] plus the weights of AVAR's attention losses; every other key is TRL's.

    enhance_weight: weight of AVAR's `L_enh`: response tokens attend to the image. 0.15 in the paper; 0 is off.
    suppress_weight: weight of AVAR's `L_sup`: response tokens attend less to the system prompt. 0.15 in the paper.
    anchored_rows: whose attention the losses are about: that of the `"response"` (the paper), of the words of the
        `"question"` (the release), or of `"both"`.
    attention_layers, attention_byte_budget: of both losses, as in [`RegionGRPOConfig`].
    """

    enhance_weight: float = 0.0
    suppress_weight: float = 0.0
    anchored_rows: str = "response"
    attention_layers: str | int | float | list = "all"
    attention_byte_budget: int = 64 * 2**20

    def __post_init__(self):
        super().__post_init__()
        if self.anchored_rows not in ANCHORED_ROWS:
            raise ValueError(f"anchored_rows must be one of {', '.join(ANCHORED_ROWS)}; got {self.anchored_rows!r}.")
        _check_not_negative(self, "enhance_weight", "suppress_weight")
        check_graph(self, self.is_anchored)

    @property
    def is_anchored(self) -> bool:
        """Whether the loss has an attention part."""
        return self.enhance_weight > 0 or self.suppress_weight > 0


def _check_not_negative(config: Any, *keys: str) -> None:
    for key in keys:
        if getattr(config, key) < 0:
            raise ValueError(f"{key} must not be negative, got {getattr(config, key)}.")


def check_graph(config: Any, attention_in_loss: bool) -> None:
    """Raise ValueError where gradient checkpointing would take the graph of the attention away.

    The GRPO trainer asks again: TRL makes checkpointing reentrant for an adapter under ZeRO-3.
    """
    kwargs = config.gradient_checkpointing_kwargs or {}
    if attention_in_loss and config.gradient_checkpointing and kwargs.get("use_reentrant"):
        raise ValueError(
            "A loss on the attention needs its graph, which reentrant gradient checkpointing does not keep: set "
            "gradient_checkpointing_kwargs={'use_reentrant': False}. For an adapter under ZeRO-3, TRL allows only the "
            "reentrant kind: take ZeRO-2 (recipes/accelerate/zero2.yaml), or gradient_checkpointing=false."
        )
