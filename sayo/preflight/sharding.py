"""Weights, gradients and optimizer on one GPU, for each way to spread them.

`P` are the parameters, `T` the trainable ones, `N` the GPUs; `w` and `t` the bytes of all weights and of the
trainable ones in their own dtype. AdamW keeps two moments.

| | weights | gradients | optimizer | masters | buffers |
|---|---|---|---|---|---|
| one GPU, DDP | w | t | 2t | - | t (DDP's buckets, N > 1) |
| ZeRO-1 | w | T x c | 8T / N | 4T / N | bucket + 4T / N in the step |
| ZeRO-2 | w | T x c / N | 8T / N | 4T / N | bucket + 4T / N in the step |
| ZeRO-3 | w / N | T x c / N | 8T / N | 4T / N | 4T / N in the step + gathered layers |
| FSDP2 | (w - t + 4T) / N under bf16 | 4T / N | 8T / N | (the weights) | gathered layers |

`c` is 2 under bf16, else 4: DeepSpeed keeps all weights and gradients in the run's precision and float32 masters
(also of float32 weights); accelerate turns FSDP2's trainable weights into float32 and gathers them as bfloat16. DDP
with bfloat16 weights has no masters: its moments are bfloat16 too.
DeepSpeed's bucket holds 5e8 elements (runs through transformers' ZeRO-3: hidden size squared).
Sources: deepspeed/runtime/zero/{config,stage_1_and_2,stage3}.py, accelerate/utils/fsdp_utils.py, torch's DDP.
"""

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
