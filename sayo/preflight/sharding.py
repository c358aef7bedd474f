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

from torch import nn

from sayo.preflight.policy import PartCount, Policy
from sayo.preflight.setting import Setting

REDUCE_BUCKET = 500_000_000  # elements; DeepSpeed's reduce_bucket_size


@dataclass(frozen=True)
class Sharded:
    """Bytes on one GPU that do not depend on the batch.

    step: needed only while the optimizer steps. gathered: full layers that a sharded model needs to run.
    """

    weights: int
    gradients: int
    optimizer: int
    masters: int
    buffers: int
    step: int
    gathered: int
    generation: int
    reference: int


def shard(policy: Policy, setting: Setting) -> Sharded:
    """Bytes of the table above, for one GPU."""
    total, gpus = policy.total(), setting.gpus
    kind = setting.sharding
    if kind == "ddp" or (gpus == 1 and kind == "fsdp2"):
        return _replicated(total, setting)
    compute = 2 if setting.bf16 else 4
    # DeepSpeed casts the module to the run's precision; bitsandbytes weights stay packed.
    weights = total.weight_bytes if _packed(policy) else total.parameters * compute
    trained = total.trainable
    if kind == "fsdp2":
        kept = 4 if setting.bf16 else policy.dtype.itemsize
        weights = total.weight_bytes - total.trainable_bytes + kept * trained
        return Sharded(
            weights=weights // gpus,
            gradients=kept * trained // gpus,
            optimizer=2 * kept * trained // gpus,
            masters=0,
            buffers=0,
            step=0,
            gathered=_gathered(policy, compute),
            generation=0,
            reference=_reference(total, setting, sharded=True),
        )
    sharded_weights = kind == "zero3"
    full = setting.gather_to_generate and setting.generates_here and sharded_weights
    return Sharded(
        weights=weights // gpus if sharded_weights else weights,
        gradients=trained * compute // (gpus if kind != "zero1" else 1),
        optimizer=8 * trained // gpus,
        masters=4 * trained // gpus,
        buffers=_bucket(policy, trained, kind) * compute if gpus > 1 else 0,
        step=4 * trained // gpus,
        gathered=_gathered(policy, compute) if sharded_weights and gpus > 1 else 0,
        generation=weights - weights // gpus if full else 0,
        reference=_reference(total, setting, sharded_weights),
    )


def _replicated(total: PartCount, setting: Setting) -> Sharded:
    buckets = total.trainable_bytes if setting.gpus > 1 else 0
    return Sharded(
        weights=total.weight_bytes,
        gradients=total.trainable_bytes,
        optimizer=2 * total.trainable_bytes,
        masters=0,
        buffers=buckets,
        step=0,
        gathered=0,
        generation=0,
        reference=_reference(total, setting, sharded=False),
    )


def _reference(total: PartCount, setting: Setting, sharded: bool) -> int:
    if setting.reference != "copy":
        return 0
    return total.weight_bytes // setting.gpus if sharded else total.weight_bytes


def _bucket(policy: Policy, trained: int, kind: str) -> int:
    size = policy.config.get_text_config().hidden_size ** 2 if kind == "zero3" else REDUCE_BUCKET
    return min(size, trained)


def _gathered(policy: Policy, compute: int) -> int:
    """The layer at work and the next one on its way; and embeddings and head, which belong to no layer."""
    layer = size_of(policy.decoder.layers[0])
    rest = sum(count.parameters for name, count in policy.parts().items() if name in ("embeddings", "lm head"))
    return compute * (2 * layer + rest)


def _packed(policy: Policy) -> bool:
    return any(key in str(policy.section.load) for key in ("load_in_4bit", "load_in_8bit"))


def size_of(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
