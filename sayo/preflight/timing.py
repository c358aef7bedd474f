"""Time of an optimizer step, from floating-point operations, bytes moved and stated efficiencies.

For one GPU and one optimizer step, with `P` parameters of the matrices that a token passes, `c` its context:

- a forward pass costs `2 P + 2 c x heads x head size` per token and layer sum (causal attention: half of `4 c`), the
  vision tower the same per patch with full attention (`4 c`), the head `2 D V` per scored token;
- backward: twice a forward; with LoRA on frozen weights only the gradients of hidden states, so once; checkpointing
  adds one forward;
- operations / (peak x MFU) is the time of everything but decoding. `MFU` differs for training and for prefilling;
- decoding one token for all sequences reads all weights and the KV cache once: bytes / (bandwidth x efficiency), and
  costs the engine `overhead` per layer, which for transformers' `generate` is most of it.

Communication follows the usual ring costs. An all-gather or a reduce-scatter of `b` bytes among `N` GPUs moves
`b (N - 1) / N` through each, an all-reduce twice that, at the bus bandwidth: NVLink within a node, the sum of a
node's network cards across nodes (never more than NVLink), and every collective pays a latency per hop. Communication
of backward and of sharded forwards overlaps with computation: only what is longer than it is waited for.

| | per optimizer step, `A` micro-batches |
|---|---|
| DDP | all-reduce of the gradients |
| ZeRO-1 | reduce-scatter and all-gather, once |
| ZeRO-2 | reduce-scatter for every micro-batch, all-gather once |
| ZeRO-3, FSDP2 | all-gather of the weights in every forward and backward, reduce-scatter for every micro-batch |

Left out: reading and decoding images, the processor, rewards, logging, and the wait for the longest completion of
other ranks. Every assumption is a field of `Hardware` and an option of the command.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sayo.preflight.policy import Policy, quantized_bytes
from sayo.preflight.setting import Setting


@dataclass(frozen=True)
class Hardware:
    """Assumptions about a GPU and its network; the defaults are an H100 SXM on 400 Gbit/s InfiniBand.

    peak_tflops: dense bfloat16. mfu, prefill_mfu: share of it reached in training and in forward passes.
    memory_gbs, memory_efficiency: of HBM while decoding.
    transformers_overhead_ms, vllm_overhead_ms: per layer and decoded token, launching kernels.
    nvlink_gbs, network_gbs: per GPU and direction. network_efficiency: share of both that collectives reach.
    hop_us: latency of one hop of a collective across nodes; within a node a tenth.
    context_gib, fragmentation: memory that tensors cannot have.
    """

    peak_tflops: float = 989.0
    mfu: float = 0.35
    prefill_mfu: float = 0.45
    memory_gbs: float = 3350.0
    memory_efficiency: float = 0.6
    transformers_overhead_ms: float = 0.8
    vllm_overhead_ms: float = 0.05
    gpus_per_node: int = 8
    nvlink_gbs: float = 450.0
    network_gbs: float = 50.0
    network_efficiency: float = 0.8
    hop_us: float = 5.0
    context_gib: float = 1.5
    fragmentation: float = 0.05


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step on each GPU.

    parts: generation, one entry per extra forward, training, communication that is waited for.
    communication: all of it, hidden or not; `sent`: bytes through each GPU.
    steps_per_epoch: None when the number of rows is not known.
    """

    parts: dict[str, float]
    communication: float
    sent: float
    steps_per_epoch: float | None
    steps: float | None

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def bottleneck(self) -> str:
        return max(self.parts, key=self.parts.get)


def step_time(policy: Policy, setting: Setting, hardware: Hardware) -> StepTime:
    """Seconds of one optimizer step, by part."""
    work = _Work(policy, setting)
    sequences = setting.micro_batch * setting.accumulation  # per GPU and optimizer step
    fresh = sequences / setting.num_iterations  # of which so many are generated anew
    speed = hardware.peak_tflops * 1e12
    parts: dict[str, float] = {}
    if setting.engine != "none":
        prefill = fresh * work.prefill() / (speed * hardware.prefill_mfu)
        parts["generation: prefill"] = prefill
        parts["generation: decode"] = fresh / setting.generation_batch * work.decode_seconds(hardware)
    for name in setting.extra_forwards:
        parts[name] = fresh * work.forward() / (speed * hardware.prefill_mfu)
    parts["forward and backward"] = sequences * work.training() / (speed * hardware.mfu)
    network = communicate(policy, setting, hardware)
    # What is sent while a layer computes costs nothing; the rest is waited for.
    overlapping = sum(parts.values()) - parts.get("generation: decode", 0.0)
    parts["waiting for communication"] = max(0.0, network.overlapped - overlapping) + network.exposed
    per_epoch = _steps_per_epoch(setting, sequences)
    steps = float(setting.max_steps) if setting.max_steps > 0 else per_epoch and per_epoch * setting.epochs
    return StepTime(parts, network.overlapped + network.exposed, network.sent, per_epoch, steps)


def _steps_per_epoch(setting: Setting, sequences: int) -> float | None:
    if setting.samples is None:
        return None
    return setting.samples * setting.num_generations * setting.num_iterations / (sequences * setting.gpus)


class _Work:
    """Floating-point operations of one sequence."""

    def __init__(self, policy: Policy, setting: Setting):
        self.policy, self.setting = policy, setting
        self.text, self.vision = policy.config.get_text_config(), policy.config.vision_config
        self.prompt = setting.typical.total
        self.length = self.prompt + setting.completion_tokens
        self.patches = setting.typical.visual * getattr(self.vision, "spatial_merge_size", 2) ** 2
        self.head_dim = getattr(self.text, "head_dim", None) or self.text.hidden_size // self.text.num_attention_heads

    def tower(self) -> float:
        """Vision tower and projector."""
        per_image = self.patches / max(1, self.setting.typical.images)
        # Windowed layers (Qwen2.5-VL) attend within their window only.
        window = (getattr(self.vision, "window_size", 0) or 0) / self.vision.patch_size
        whole = (
            len(getattr(self.vision, "fullatt_block_indexes", None) or ())
            if window
            else len(self.policy.vision.blocks)
        )
        contexts = whole * per_image + (len(self.policy.vision.blocks) - whole) * min(per_image, window**2)
        matrices = 2 * self.patches * matrix_parameters(self.policy.vision.blocks)
        attention = 4 * self.patches * contexts * self.vision.hidden_size
        mergers = [module for name, module in self.policy.vision.named_children() if "merger" in name]
        return matrices + attention + 2 * self.setting.typical.visual * sum(map(matrix_parameters, mergers))

    def decoder(self, tokens: int) -> float:
        matrices = 2 * tokens * matrix_parameters(self.policy.decoder.layers)
        heads = self.text.num_attention_heads * self.head_dim
        return matrices + 2 * tokens**2 * heads * self.text.num_hidden_layers

    def head(self, tokens: int) -> float:
        return 2 * tokens * self.text.hidden_size * self.text.vocab_size

    def prefill(self) -> float:
        return self.tower() + self.decoder(self.prompt) + self.head(1)

    def forward(self) -> float:
        """Scoring: prompt and completion, logits of the completion only."""
        return self.tower() + self.decoder(self.length) + self.head(self.setting.completion_tokens or self.length)

    def training(self) -> float:
        total = self.policy.total()
        passes = 2.0 if total.trainable < 0.5 * total.parameters else 3.0
        passes += float(self.setting.checkpointing)
        frozen_tower = not any(p.requires_grad for p in self.policy.vision.parameters())
        saved = (passes - 1) * self.tower() if frozen_tower else 0.0
        return passes * self.forward() - saved

    def decode_seconds(self, hardware: Hardware) -> float:
        """Decoding a whole generation batch: one pass over weights and cache for every completion token."""
        setting, layers = self.setting, self.text.num_hidden_layers
        itemsize = 2 if setting.bf16 else 4
        weights = sum(
            parameter.numel() * (quantized_bytes(self.policy.section, name, parameter) or itemsize)
            for name, parameter in self.policy.base.named_parameters()
            if "visual" not in name
        )
        per_token = 2 * layers * self.text.num_key_value_heads * self.head_dim * itemsize
        context = self.prompt + setting.completion_tokens / 2
        reading = weights + setting.generation_batch * context * per_token
        overhead = hardware.transformers_overhead_ms if setting.generates_here else hardware.vllm_overhead_ms
        seconds = reading / (hardware.memory_gbs * 1e9 * hardware.memory_efficiency) + layers * overhead / 1e3
        return seconds * setting.completion_tokens


def matrix_parameters(module: nn.Module) -> int:
    """Parameters that multiply every token: all matrices."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() == 2)


@dataclass(frozen=True)
class Communication:
    """Seconds that overlap with computation, seconds that do not, and bytes through one GPU."""

    overlapped: float
    exposed: float
    sent: float


def communicate(policy: Policy, setting: Setting, hardware: Hardware) -> Communication:
    """Collectives of one optimizer step; see the table above."""
    gpus, accumulation = setting.gpus, setting.accumulation
    if gpus == 1:
        return Communication(0.0, 0.0, 0.0)
    total = policy.total()
    compute = 2 if setting.bf16 else 4
    weights = total.weight_bytes if policy.section.load else total.parameters * compute
    trained = total.trainable * compute
    layers = len(policy.decoder.layers) + len(policy.vision.blocks)
    if setting.sharding in ("zero3", "fsdp2"):
        fresh = 1 / setting.num_iterations
        gathers = accumulation * (2 + len(setting.extra_forwards) * fresh)
        sent = gathers * weights + accumulation * trained
        calls = (gathers + accumulation) * layers
        overlapped = _seconds(sent, calls, gpus, hardware)
        exposed_bytes, exposed_calls = _gather_to_generate(policy, setting, weights, layers)
        exposed = _seconds(exposed_bytes, exposed_calls, gpus, hardware)
        return Communication(overlapped, exposed, (sent + exposed_bytes) * (gpus - 1) / gpus)
    if setting.sharding == "ddp":
        trained = total.trainable_bytes
        sent, calls = 2 * trained, 2 * max(1, trained // (25 * 2**20))
        return Communication(_seconds(sent, calls, gpus, hardware), 0.0, sent * (gpus - 1) / gpus)
    reduces = accumulation if setting.sharding == "zero2" else 1
    buckets = max(1, total.trainable // 500_000_000)
    overlapped = _seconds(reduces * trained, reduces * buckets, gpus, hardware)
    exposed = _seconds(
        trained, buckets, gpus, hardware
    )  # weights are gathered after the step, with nothing to hide it
    return Communication(overlapped, exposed, (reduces + 1) * trained * (gpus - 1) / gpus)


def _gather_to_generate(policy: Policy, setting: Setting, weights: int, layers: int) -> tuple[float, float]:
    """Bytes and collectives of generating with sharded weights: once if they are gathered whole, else every token."""
    if not setting.generation_batch or setting.engine == "vllm server":
        return 0.0, 0.0
    per_step = setting.micro_batch * setting.accumulation / setting.num_iterations / setting.generation_batch
    whole = not setting.generates_here or (setting.sharding == "zero3" and setting.gather_to_generate)
    passes = 1 if whole else setting.completion_tokens
    return per_step * passes * weights, per_step * passes * layers


def _seconds(size: float, calls: float, gpus: int, hardware: Hardware) -> float:
    """Ring time of collectives over `size` bytes in all, in `calls` calls."""
    nodes = max(1, -(-gpus // hardware.gpus_per_node))
    bandwidth = hardware.nvlink_gbs
    if nodes > 1:
        bandwidth = min(bandwidth, hardware.gpus_per_node * hardware.network_gbs)
    hops = (gpus - nodes) * hardware.hop_us / 10 + (nodes - 1) * hardware.hop_us
    return size * (gpus - 1) / gpus / (bandwidth * 1e9 * hardware.network_efficiency) + calls * hops * 1e-6
