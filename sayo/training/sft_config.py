"""Settings of a supervised run: TRL's own, plus AVAR's attention losses."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import SFTConfig


@dataclass
class AnchoredSFTConfig(SFTConfig):
    """TRL's [`~trl.SFTConfig`] plus the weights of AVAR's attention losses; every other key is TRL's.

    > Parameters that control the attention losses (both 0: TRL's supervised tuning as it is)

    enhance_weight (`float`, *optional*, defaults to `0.0`):
        Weight of `sayo.objectives.enhance_loss`: response tokens attend to the image. 0.15 in the paper.
    suppress_weight (`float`, *optional*, defaults to `0.0`):
        Weight of `sayo.objectives.suppress_loss`: response tokens attend less to the system prompt. 0.15 in the paper.
    attention_layers (`str`, `int`, `float` or `list`, *optional*, defaults to `"all"`):
        Decoder layers of both losses: `"last"`, `"all"`, an index (negative counts from the end), a range `"0-7"`, a
        fraction of the depth such as `0.5`, or a list of those.
    attention_byte_budget (`int`, *optional*, defaults to 64 MiB):
        Upper bound in bytes of one block of attention scores; rows are read in chunks below it.
    """

    enhance_weight: float = field(default=0.0, metadata={"help": "Weight of the loss that enhances image attention."})
    suppress_weight: float = field(
        default=0.0, metadata={"help": "Weight of the loss that suppresses attention on the system prompt."}
    )
    attention_layers: str | int | float | list = field(
        default="all",
        metadata={"help": "Decoder layers to read: 'last', 'all', an index, a range '4-7', a fraction, or a list."},
    )
    attention_byte_budget: int = field(
        default=64 * 2**20, metadata={"help": "Upper bound in bytes of one block of attention scores."}
    )

    def __post_init__(self):
        super().__post_init__()
        for key in ("enhance_weight", "suppress_weight"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}.")
        reentrant = (self.gradient_checkpointing_kwargs or {}).get("use_reentrant")
        if self.is_anchored and self.gradient_checkpointing and reentrant:
            raise ValueError(
                "The attention losses need the graph of the attention, which reentrant gradient checkpointing does "
                "not keep: set gradient_checkpointing_kwargs={'use_reentrant': False}."
            )

    @property
    def is_anchored(self) -> bool:
        """Whether the loss has an attention part."""
        return self.enhance_weight > 0 or self.suppress_weight > 0
