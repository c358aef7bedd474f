"""Weights, gradients and optimizer on one GPU, for each way to spread them: the table in docs/scale.md."""

from __future__ import annotations

from dataclasses import dataclass

from sayo.preflight.policy import MetaPolicy
from sayo.preflight.setting import Setting

REDUCE_BUCKET = 500_000_000  # elements; DeepSpeed's reduce_bucket_size


@dataclass(frozen=True)
class Static:
    """Bytes on one GPU that do not depend on the batch.

    step: needed only while the optimizer steps. gathered: full layers that a sharded model needs to run.
    generation: weights gathered to generate.
    """

    weights: int
    gradients: int
    optimizer: int
    reference: int
    masters: int = 0
    buffers: int = 0
    step: int = 0
    gathered: int = 0
    generation: int = 0


def static_bytes(policy: MetaPolicy, setting: Setting) -> Static:
    """Bytes of the table above, for one GPU."""
    gpus, kind = setting.gpus, setting.sharding
    reference = policy.weight_bytes if setting.reference == "copy" else 0
    if kind == "ddp" or (gpus == 1 and kind == "fsdp2"):
        trained = policy.trainable_bytes
        return Static(policy.weight_bytes, trained, 2 * trained, reference, buffers=trained if gpus > 1 else 0)
    trained, compute = policy.trainable, 2 if setting.bf16 else 4
    if kind == "fsdp2":
        kept = 4 * trained if setting.bf16 else policy.dtype.itemsize * trained
        weights = (policy.weight_bytes - policy.trainable_bytes + kept) // gpus
        gathered = compute * _gathered(policy)
        return Static(weights, kept // gpus, 2 * kept // gpus, reference // gpus, gathered=gathered)
    # DeepSpeed casts the module to the run's precision; bitsandbytes weights stay packed.
    weights = policy.weight_bytes if policy.bits else policy.parameters * compute
    shard = gpus if kind == "zero3" else 1
    bucket = min(policy.text.hidden_size**2 if kind == "zero3" else REDUCE_BUCKET, trained)
    return Static(
        weights=weights // shard,
        gradients=trained * compute // (1 if kind == "zero1" else gpus),
        optimizer=8 * trained // gpus,
        reference=reference // shard,
        masters=4 * trained // gpus,
        buffers=bucket * compute if gpus > 1 else 0,
        step=4 * trained // gpus,
        gathered=compute * _gathered(policy) if shard > 1 else 0,
        generation=weights - weights // shard if setting.gather_to_generate else 0,
    )


def _gathered(policy: MetaPolicy) -> int:
    """Parameters of the layer at work and of the next one on its way, and of embeddings and head outside of layers."""
    layer = sum(parameter.numel() for parameter in policy.decoder.layers[0].parameters())
    named = policy.model.named_parameters()
    rest = sum(p.numel() for name, p in named if ("embed_tokens" in name or "lm_head" in name) and "lora_" not in name)
    return 2 * layer + rest
