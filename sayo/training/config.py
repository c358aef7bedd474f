"""Settings of a region-attention GRPO run: TRL's own, plus the few that say what attention is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import GRPOConfig


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

    def __post_init__(self):
        try:
            super().__post_init__()
        except ValueError as error:
            if "must be divisible by" not in str(error):
                raise
            raise ValueError(f"{error} {self._sizes_that_work()}") from None

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
