"""Time of an optimizer step, from operations, bytes moved and stated efficiencies: formulas in docs/scale.md."""

from dataclasses import dataclass

from torch import nn

from sayo.preflight.memory import REDUCE_BUCKET
from sayo.preflight.policy import MetaPolicy, trainable
from sayo.preflight.setting import Setting


@dataclass(frozen=True)
class Hardware:
    """Assumptions about a GPU and its network; the defaults are an H100 SXM on 400 Gbit/s InfiniBand."""

    gpu_gib: float = 80.0  # as `nvidia-smi` counts it
    peak_tflops: float = 989.0  # dense bfloat16
    mfu: float = 0.35  # share of it that training reaches
    prefill_mfu: float = 0.45  # share of it that forward passes reach
    memory_gbs: float = 3350.0  # bandwidth of HBM
    memory_efficiency: float = 0.6  # share of it while decoding
    transformers_overhead_ms: float = 0.8  # per layer and decoded token, launching kernels
    vllm_overhead_ms: float = 0.05
    gpus_per_node: int = 8
    nvlink_gbs: float = 450.0  # per GPU and direction
    network_gbs: float = 50.0
    network_efficiency: float = 0.8  # share of both that collectives reach
    hop_us: float = 5.0  # latency of one hop across nodes; within a node a tenth
    context_gib: float = 1.5  # memory that tensors cannot have
    fragmentation: float = 0.05


def step_time(policy: MetaPolicy, setting: Setting, hardware: Hardware) -> dict[str, float]:
    """Seconds of one optimizer step on each GPU, by part."""
    sequences = setting.micro_batch * setting.accumulation
    prompt, fresh = setting.tokens.mean_visual + setting.tokens.mean_text, sequences / setting.num_iterations
    length = prompt + setting.completion_tokens
    tower = tower_operations(policy, setting)
    forward = tower + decoder_operations(policy, length, setting.completion_tokens or length)
    passes = (2 if policy.trainable < 0.5 * policy.parameters else 3) + setting.checkpointing
    training = passes * forward - (0 if trainable(policy.tower)[0] else (passes - 1) * tower)
    speed, parts = hardware.peak_tflops * 1e12, {}
    if setting.engine != "none":
        prefill = tower + decoder_operations(policy, prompt, 1)
        parts["generation: prefill"] = fresh * prefill / (speed * hardware.prefill_mfu)
        parts["generation: decode"] = fresh / setting.generation_batch * _decode_seconds(policy, setting, hardware)
    for name in setting.extra_forwards:
        parts[name] = fresh * forward / (speed * hardware.prefill_mfu)
    parts["forward and backward"] = sequences * training / (speed * hardware.mfu)
    hides = sum(parts.values()) - parts.get("generation: decode", 0.0)
    overlapped, exposed = (_seconds(*traffic, setting.gpus, hardware) for traffic in communication(policy, setting))
    parts["waiting for communication"] = max(0.0, overlapped - hides) + exposed
    return parts


def matrix_parameters(*modules: nn.Module) -> int:
    """Parameters that multiply every token: all matrices."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.dim() == 2)


def tower_operations(policy: MetaPolicy, setting: Setting) -> float:
    """Vision tower and projector on one sequence; windowed layers (Qwen2.5-VL) attend within their window only."""
    visual, vision, depth = setting.tokens.mean_visual, policy.vision, len(policy.tower.blocks)
    patches = visual * vision.spatial_merge_size**2
    per_image = patches / max(1, setting.tokens.images)
    window = (getattr(vision, "window_size", 0) / vision.patch_size) ** 2
    full = len(vision.fullatt_block_indexes) if window else depth
    contexts = full * per_image + (depth - full) * min(per_image, window)
    mergers = [module for name, module in policy.tower.named_children() if "merger" in name]
    matrices = patches * matrix_parameters(policy.tower.blocks) + visual * matrix_parameters(*mergers)
    return 2 * matrices + 4 * patches * contexts * vision.hidden_size


def decoder_operations(policy: MetaPolicy, tokens: int, scored: int) -> float:
    """Decoder on one sequence, head on `scored` of its tokens."""
    text = policy.text
    attention = 2 * tokens**2 * text.num_attention_heads * policy.head_dim * text.num_hidden_layers
    matrices = tokens * matrix_parameters(policy.decoder.layers) + scored * text.hidden_size * text.vocab_size
    return 2 * matrices + attention


def _decode_seconds(policy: MetaPolicy, setting: Setting, hardware: Hardware) -> float:
    """Decoding a whole generation batch: one pass over weights and cache for every completion token."""
    layers, itemsize = policy.text.num_hidden_layers, 2 if setting.bf16 else 4
    named = [(name, p) for name, p in policy.base.named_parameters() if "visual" not in name]
    weights = sum(p.numel() * (policy.bytes_each(name, p) if policy.bits else itemsize) for name, p in named)
    per_token = 2 * layers * policy.text.num_key_value_heads * policy.head_dim * itemsize
    context = setting.tokens.mean_visual + setting.tokens.mean_text + setting.completion_tokens / 2
    bytes_read = weights + setting.generation_batch * context * per_token
    launching = hardware.transformers_overhead_ms if setting.engine == "transformers" else hardware.vllm_overhead_ms
    bandwidth = hardware.memory_gbs * 1e9 * hardware.memory_efficiency
    return (bytes_read / bandwidth + layers * launching / 1e3) * setting.completion_tokens


def communication(policy: MetaPolicy, setting: Setting) -> tuple[tuple[float, float], tuple[float, float]]:
    """(bytes, calls) of the collectives of one step that overlap with computation, and of those that do not."""
    compute, accumulation = 2 if setting.bf16 else 4, setting.accumulation
    trained, buckets = policy.trainable * compute, max(1, policy.trainable // REDUCE_BUCKET)
    if setting.sharding == "ddp":
        return (2 * policy.trainable_bytes, 2 * max(1, policy.trainable_bytes // (25 * 2**20))), (0, 0)
    if setting.sharding in ("zero1", "zero2"):
        reduces = accumulation if setting.sharding == "zero2" else 1
        return (reduces * trained, reduces * buckets), (trained, buckets)  # weights are gathered after the step
    weights = policy.weight_bytes if policy.bits else policy.parameters * compute
    layers = len(policy.decoder.layers) + len(policy.tower.blocks)
    gathers = accumulation * (2 + len(setting.extra_forwards) / setting.num_iterations)
    generations = 0.0  # gathers to generate: once if the weights are gathered whole, else for every token
    if setting.generation_batch and setting.engine != "vllm server":
        generations = setting.micro_batch * accumulation / setting.num_iterations / setting.generation_batch
        whole = setting.engine == "vllm colocate" or (setting.sharding == "zero3" and setting.gather_to_generate)
        generations *= 1 if whole else setting.completion_tokens
    hidden = (gathers * weights + accumulation * trained, (gathers + accumulation) * layers)
    return hidden, (generations * weights, generations * layers)


def _seconds(size: float, calls: float, gpus: int, hardware: Hardware) -> float:
    """Ring time of collectives over `size` bytes in all, in `calls` calls."""
    nodes = -(-gpus // hardware.gpus_per_node)
    network = hardware.gpus_per_node * hardware.network_gbs
    bandwidth = min(hardware.nvlink_gbs, network) if nodes > 1 else hardware.nvlink_gbs
    hops = (gpus - nodes) * hardware.hop_us / 10 + (nodes - 1) * hardware.hop_us
    return size * (gpus - 1) / gpus / (bandwidth * 1e9 * hardware.network_efficiency) + calls * hops * 1e-6
