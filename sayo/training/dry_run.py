"""The end of a dry run: one tiny group goes through everything that a step is made of, except the optimizer."""

from contextlib import ExitStack
from typing import Any

from trl import GRPOTrainer
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from sayo.training.launch import sharding

TOKENS = 8
"""Longest completion of the group."""


def try_one_group(trainer: Any) -> str:
    """Generate, read, reward, shape and compute the loss of one row's completions (supervised: of the row itself).

    What a reward function, a shaper or the loss raises in training, it raises here. Nothing is trained or written.
    Returns what was done, for the terminal.
    """
    if sharding(trainer) in ("ZeRO-3", "FSDP"):
        return "no completion was generated: sharded weights are whole in training only (try it on one process)"
    if next(trainer.model.parameters()).device.type != trainer.args.device.type:  # DeepSpeed moves it later
        trainer.model.to(trainer.args.device)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = trainer.train_dataset
    row = next((row for row in rows if row.get("region_tokens")), rows[0])
    with trainer.accelerator.autocast(), ExitStack() as trainer._captures:
        if not isinstance(trainer, GRPOTrainer):
            trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator([row])))
            return "the loss of one row was computed"
        few = min(TOKENS, trainer.max_completion_length)
        (trainer.vllm_generation if trainer.use_vllm else trainer).max_completion_length = few
        if not trainer.use_vllm:
            trainer.generation_config.max_new_tokens = few
        trainer.args.overlay_steps = 0
        group = trainer._generate_and_score_completions([dict(row) for _ in range(trainer.num_generations)])
        size, most = trainer.num_generations, trainer.args.per_device_train_batch_size
        pieces = next(number for number in range(1, size + 1) if size % number == 0 and size // number <= most)
        piece = split_tensor_dict(split_pixel_values_by_grid(group), pieces)[0]
        trainer.compute_loss(trainer.model, unsplit_pixel_values_by_grid(piece))
    paid = {name: trainer._metrics["train"][f"rewards/{name}/mean"][-1] for name in trainer.reward_func_names}
    return f"{size} completions of {few} tokens were rewarded: " + ", ".join(f"{n} {v:.3g}" for n, v in paid.items())
