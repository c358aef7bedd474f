"""Peak memory of one GPU, by phase and item: formulas in docs/scale.md.

Scoring is left out: without gradients it needs less than the backward pass of the same micro-batch.
"""

from typing import NamedTuple

from torch import nn

from sayo.preflight import trace
from sayo.preflight.policy import MetaPolicy, trainable
from sayo.preflight.setting import Setting
from sayo.preflight.trace import LayerBytes

REDUCE_BUCKET = 500_000_000  # elements; DeepSpeed's reduce_bucket_size
SAMPLER_BYTES = 28  # per logit while decoding
IDS_BYTES = 8
TOKEN_CHUNK, VOCABULARY_CHUNK, TORCH_TILES = 4096, 32768, 7.25


class Stage(NamedTuple):
    """One step of the backward pass: `kept` from forward on, `again` and `working` while its turn lasts; bytes."""

    name: str
    kept: int = 0
    again: int = 0
    working: int = 0
    gradients: int = 0


def memory_of(policy: MetaPolicy, setting: Setting, gpu_bytes: int = 0) -> dict[str, dict[str, int]]:
    """Bytes on one GPU of each phase at its peak, by item; what lives through the run is in every phase.

    A colocated vLLM takes its share of `gpu_bytes`, the size of the GPU.
    """
    static, vllm = static_bytes(policy, setting), round(setting.vllm_share * gpu_bytes)
    patch = policy.vision.in_channels * policy.vision.patch_size**2 * policy.vision.temporal_patch_size

    def items(*names: str) -> dict[str, int]:
        return {name: static.get(name, 0) for name in names}

    always = items("weights", "optimizer", "master weights", "reference model", "communication buffers")
    sequences = setting.generation_batch or setting.micro_batch
    always["images, float32"] = sequences * _patches(policy, setting) * patch * 4
    always["vLLM share"] = 0 if setting.vllm_sleeps else vllm
    backward = _backward(policy, setting, static["gradients"])
    phases = {"backward": backward | items("gathered layers")}
    phases["update"] = items("gradients", "float32 gradients of the step")
    if setting.engine != "none":
        # Several generations within one optimizer step find the gradients of its earlier micro-batches.
        amid = setting.generation_batch < setting.accumulation * setting.micro_batch
        phases["generation"] = items("gradients") if amid else {}
        if setting.engine == "transformers":
            gathered = items("gathered layers", "weights gathered to generate")
            phases["generation"] |= _generation(policy, setting) | gathered
        elif setting.vllm_sleeps:
            phases["generation"]["vLLM share"] = vllm
    return {name: always | phase for name, phase in phases.items()}


def static_bytes(policy: MetaPolicy, setting: Setting) -> dict[str, int]:
    """Bytes on one GPU that do not depend on the batch, by item: the table in docs/scale.md."""
    gpus, kind, trained, compute = setting.gpus, setting.sharding, policy.trainable, 2 if setting.bf16 else 4
    reference = policy.weight_bytes if setting.reference == "copy" else 0
    if kind == "ddp" or (gpus == 1 and kind == "fsdp2"):
        gradients = policy.trainable_bytes
        items = {"weights": policy.weight_bytes, "gradients": gradients, "optimizer": 2 * gradients}
        return items | {"reference model": reference, "communication buffers": gradients if gpus > 1 else 0}
    # Parameters of the layer at work and of the next one on its way, and of embeddings and head outside of layers.
    layer = sum(parameter.numel() for parameter in policy.decoder.layers[0].parameters())
    named = policy.model.named_parameters()
    rest = sum(p.numel() for name, p in named if ("embed_tokens" in name or "lm_head" in name) and "lora_" not in name)
    gathered = compute * (2 * layer + rest)
    if kind == "fsdp2":
        kept = 4 * trained if setting.bf16 else policy.dtype.itemsize * trained
        weights = (policy.weight_bytes - policy.trainable_bytes + kept) // gpus
        items = {"weights": weights, "gradients": kept // gpus, "optimizer": 2 * kept // gpus}
        return items | {"reference model": reference // gpus, "gathered layers": gathered}
    # DeepSpeed casts the module to the run's precision; bitsandbytes weights stay packed.
    weights = policy.weight_bytes if policy.bits else policy.parameters * compute
    shard = gpus if kind == "zero3" else 1
    bucket = min(policy.text.hidden_size**2 if kind == "zero3" else REDUCE_BUCKET, trained)
    return {
        "weights": weights // shard,
        "gradients": trained * compute // (1 if kind == "zero1" else gpus),
        "float32 gradients of the step": 4 * trained // gpus,
        "optimizer": 8 * trained // gpus,
        "master weights": 4 * trained // gpus,
        "reference model": reference // shard,
        "communication buffers": bucket * compute if gpus > 1 else 0,
        "gathered layers": gathered if shard > 1 else 0,
        "weights gathered to generate": weights - weights // shard if setting.gather_to_generate else 0,
    }


def _patches(policy: MetaPolicy, setting: Setting) -> int:
    return setting.tokens.visual * policy.vision.spatial_merge_size**2


def _vision_block(policy: MetaPolicy, setting: Setting, batch: int) -> LayerBytes:
    images = max(1, setting.tokens.images)
    return trace.vision_block(policy, setting.bf16, batch * images, _patches(policy, setting) // images)


def _shared(policy: MetaPolicy, setting: Setting, batch: int, tokens: int) -> int:
    """What serves all layers: embeddings, visual features, rotary angles, causal mask, ids."""
    features = policy.mergers * setting.tokens.visual
    values = (tokens + features) * policy.text.hidden_size + 2 * tokens * policy.head_dim
    return batch * (values * policy.dtype.itemsize + tokens**2 + 4 * tokens * IDS_BYTES)


def _generation(policy: MetaPolicy, setting: Setting) -> dict[str, int]:
    text, batch, prompt, length = policy.text, setting.generation_batch, setting.prompt, setting.length
    per_token = 2 * text.num_key_value_heads * policy.head_dim * (2 if setting.bf16 else policy.dtype.itemsize)
    cache = batch * text.num_hidden_layers * per_token
    layer, block = trace.decoder_layer(policy, setting.bf16, batch, prompt), _vision_block(policy, setting, batch)
    at_work = _shared(policy, setting, batch, prompt) + layer.input + layer.forward
    prefill = max(cache * prompt + at_work, block.input + block.forward)
    groups = text.num_attention_heads // text.num_key_value_heads
    decode = cache * length + batch * (length * per_token * (groups + 1) + text.vocab_size * SAMPLER_BYTES)
    kv = cache * (prompt if prefill > decode else length)
    return {"KV cache": kv, "activations": max(prefill, decode) - kv}


def _backward(policy: MetaPolicy, setting: Setting, whole: int) -> dict[str, int]:
    """Walk from the head back to the images and keep the largest moment; `whole`: bytes of all gradients."""
    accumulates = setting.accumulation > 1 or whole < policy.trainable_bytes
    shared = _shared(policy, setting, setting.micro_batch, setting.length)
    stages, moments, done = _stages(policy, setting), [], 0
    kept = sum(stage.kept for stage in stages)
    for stage in reversed(stages):
        gradients, activations = whole if accumulates else done, shared + kept + stage.again
        moments.append({"gradients": gradients, "activations": activations, stage.name: stage.working})
        kept, done = kept - stage.kept, done + stage.gradients
    worst = max(moments, key=lambda moment: sum(moment.values()))
    return {**worst, "attention objective": _objective(policy, setting)}


def _stages(policy: MetaPolicy, setting: Setting) -> list[Stage]:
    """From the embeddings to the head, in the order of the forward pass."""
    decoder, tower, batch = policy.decoder, policy.tower, setting.micro_batch
    layer = trace.decoder_layer(policy, setting.bf16, batch, setting.length)
    block = _vision_block(policy, setting, batch)
    merger = trace.merger(policy, setting.bf16, _patches(policy, setting) * batch)

    def stage(name: str, layer: LayerBytes, module: nn.Module, checkpointing: bool) -> Stage:
        if not layer.saved:  # frozen: nothing is kept, but it runs
            return Stage(name)
        kept, again = (layer.input, layer.saved) if checkpointing else (layer.saved, 0)
        return Stage(name, kept, again, layer.output + layer.backward, trainable(module)[1])

    return [
        # Dense, although a batch holds few of the words.
        Stage("gradient of the embeddings", working=trainable(decoder.embed_tokens)[1] + layer.input),
        *[stage("backward of a vision block", block, tower.blocks[0], setting.checkpointing)] * len(tower.blocks),
        *[stage("backward of the merger", merger, tower.merger, False)] * policy.mergers,
        *[stage("backward of a layer", layer, decoder.layers[0], setting.checkpointing)] * len(decoder.layers),
        head_stage(policy, setting),
    ]


def head_stage(policy: MetaPolicy, setting: Setting) -> Stage:
    """Last norm and head on one micro-batch."""
    width, words, learns = policy.text.hidden_size, policy.text.vocab_size, trainable(policy.base.lm_head)[1]
    itemsize = 2 if setting.bf16 else policy.dtype.itemsize
    all_rows = setting.device == "cpu" or not setting.completion_tokens
    scored = setting.micro_batch * (setting.length - 1 if all_rows else setting.completion_tokens)
    copies = 4 + (itemsize if itemsize < 4 else 0)  # a float32 gradient and its copy in a smaller dtype
    gradients = (scored + (words if learns else 0)) * width * copies
    tile = min(scored, TOKEN_CHUNK) * VOCABULARY_CHUNK * itemsize
    if setting.device == "cpu":
        tile += round(TORCH_TILES * min(scored, TOKEN_CHUNK) * min(words, VOCABULARY_CHUNK) * 4)
    # The norm keeps its input in float32 and its normalised input.
    norm = setting.micro_batch * setting.length * width * (4 + policy.dtype.itemsize)
    return Stage("head and its tiles", norm + scored * width * itemsize, 0, tile + gradients, learns)


def _objective(policy: MetaPolicy, setting: Setting) -> int:
    """What reading with a graph keeps for the backward pass: see `sayo.attention.read`."""
    heads, rows = policy.text.num_attention_heads, setting.completion_tokens
    operands = policy.head_dim * (policy.text.num_key_value_heads * setting.length + heads * rows)
    layers = min(setting.objective_layers, 1) if setting.checkpointing else setting.objective_layers
    return layers * setting.micro_batch * 4 * (heads * rows * setting.length + operands)
