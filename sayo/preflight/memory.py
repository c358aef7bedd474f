"""Peak memory of one GPU, by item.

A GRPO step passes through four phases; what lives through all of them is counted once (`always`), and the peak is
that plus the largest phase.

1. **generation** (transformers engine): KV cache `2 x layers x kv heads x head size x bytes` for every token of every
   sequence generated at once, plus the larger of (a) prefilling: one decoder layer or one vision block at work on the
   whole generation batch, (b) decoding: repeated keys and values of one layer, and some 28 bytes per logit of the
   sampler (float32 copy, softmax, sort and its indices).
2. **scoring** (also the reference model's): one layer at work on one micro-batch without gradients, the reading of
   attention, one tile of the language model's head.
3. **backward**: activations. Without checkpointing each layer keeps `saved` bytes; with it only its input, and the
   layer whose turn it is keeps `saved` once more. To that come the layer's own gradients (`backward`) and, at the
   head, float32 gradients of hidden states and of the head's weights and one tile of logits. The backward pass is
   walked through layer by layer, because gradients appear while activations go. An attention objective keeps the
   float32 weights of its rows, queries and keys of every layer it reads (with checkpointing, of one layer).
4. **update**: gradients, and DeepSpeed's float32 copy of them.

`saved`, `forward` and `backward` of a layer are traced, not typed: see `sayo.preflight.trace`. What is sharded is in
`sayo.preflight.sharding`. Logits are never whole: TRL's fused head works on tiles of at most 4096 tokens by 32768
words (trl/kernels/chunked_logprob.py), on completion rows only where Triton runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from sayo.preflight.head import HeadBytes, head_bytes
from sayo.preflight.policy import Policy
from sayo.preflight.setting import Setting
from sayo.preflight.sharding import Sharded, shard
from sayo.preflight.trace import LayerBytes, LayerTracer, learns, trainable_bytes

SAMPLER_BYTES = 28  # per logit while decoding
IDS_BYTES = 8


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. `always`: items that live through the run; `phases`: items of each phase at its peak."""

    always: dict[str, int]
    phases: dict[str, dict[str, int]]

    @property
    def worst_phase(self) -> str:
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def items(self) -> dict[str, int]:
        """What makes up the peak."""
        return {name: size for name, size in {**self.always, **self.phases[self.worst_phase]}.items() if size}

    @property
    def peak(self) -> int:
        return sum(self.items.values())

    def phase_peak(self, phase: str) -> int:
        return sum(self.always.values()) + sum(self.phases[phase].values())


def memory_of(policy: Policy, setting: Setting, gpu_bytes: int = 0) -> Memory:
    """Peak memory of one GPU.

    Args:
        gpu_bytes: size of the GPU, of which vLLM takes its share when it is colocated.
    """
    return _Estimate(policy, setting, gpu_bytes).memory()


@dataclass(frozen=True)
class _Stage:
    """One step of the backward pass: `kept` from forward on, `extra` and `working` while its turn lasts."""

    name: str
    kept: int
    extra: int
    working: int
    gradients: int


class _Estimate:
    def __init__(self, policy: Policy, setting: Setting, gpu_bytes: int):
        self.policy, self.setting, self.gpu_bytes = policy, setting, gpu_bytes
        self.tracer = LayerTracer(policy, setting.bf16)
        self.text, self.vision = policy.config.get_text_config(), policy.config.vision_config
        self.sharded: Sharded = shard(policy, setting)
        self.tokens = setting.longest
        self.length = setting.longest.total + setting.completion_tokens
        merge = getattr(self.vision, "spatial_merge_size", 2)
        self.patches = self.tokens.visual * merge**2  # per sample
        self.mergers = 1 + len(getattr(self.vision, "deepstack_visual_indexes", None) or ())
        self.itemsize = policy.dtype.itemsize

    def memory(self) -> Memory:
        setting, sharded = self.setting, self.sharded
        always = {
            "weights": sharded.weights,
            "optimizer": sharded.optimizer,
            "master weights": sharded.masters,
            "reference model": sharded.reference,
            "communication buffers": sharded.buffers,
            "images of the generation batch": self._pixels(setting.generation_batch or setting.micro_batch),
        }
        if setting.vllm_share and not setting.vllm_sleeps:
            always["vLLM share"] = round(setting.vllm_share * self.gpu_bytes)
        phases = {"backward": self._backward(), "update": self._update()}
        if setting.engine != "none":
            phases["generation"] = self._generation()
            phases["scoring"] = self._scoring()
        return Memory(always, phases)

    def _pixels(self, sequences: int) -> int:
        """float32 patches, as the processor makes them."""
        patch = self.vision.in_channels * self.vision.patch_size**2 * self.vision.temporal_patch_size
        return sequences * self.patches * patch * 4

    def _shared(self, batch: int, tokens: int) -> int:
        """What serves all layers: embeddings, visual features, causal mask, rotary angles, ids."""
        hidden = batch * tokens * self.text.hidden_size * self.itemsize
        features = self.mergers * batch * self.tokens.visual * self.text.hidden_size * self.itemsize
        angles = 2 * batch * tokens * self.tracer.head_dim * self.itemsize
        return hidden + features + angles + batch * tokens**2 + 4 * batch * tokens * IDS_BYTES

    def _update(self) -> dict[str, int]:
        return {"gradients": self.sharded.gradients, "float32 gradients of the step": self.sharded.step}

    def _generation(self) -> dict[str, int]:
        setting = self.setting
        held = {"gradients": self.sharded.gradients} if self._generates_amid_gradients() else {}
        if setting.vllm_share and setting.vllm_sleeps:
            held["vLLM share"] = round(setting.vllm_share * self.gpu_bytes)
        if not setting.generates_here:
            return held
        batch, prompt = setting.generation_batch, self.tokens.total
        per_token = 2 * self.text.num_key_value_heads * self.tracer.head_dim * (2 if setting.bf16 else self.itemsize)
        cache = batch * self.text.num_hidden_layers * per_token
        layer = self.tracer.decoder_layer(batch, prompt)
        block = self._vision_block(batch)
        prefill = max(cache * prompt + self._shared(batch, prompt) + layer.input + layer.forward, self._seeing(block))
        groups = self.text.num_attention_heads // self.text.num_key_value_heads
        repeated = batch * self.length * per_token * (groups + 1)
        decode = cache * self.length + repeated + batch * self.text.vocab_size * SAMPLER_BYTES
        kv = cache * (prompt if prefill > decode else self.length)
        return {
            **held,
            "KV cache": kv,
            "activations": max(prefill, decode) - kv,
            "gathered layers": self.sharded.gathered,
            "weights gathered to generate": self.sharded.generation,
        }

    def _generates_amid_gradients(self) -> bool:
        """Several generations within one optimizer step find gradients of the earlier micro-batches."""
        return self.setting.generation_batch < self.setting.accumulation * self.setting.micro_batch

    def _scoring(self) -> dict[str, int]:
        setting = self.setting
        batch = setting.micro_batch
        layer = self.tracer.decoder_layer(batch, self.length)
        base = self._shared(batch, self.length) + layer.input
        head = self._head(learns_head=False)
        # The reading happens while queries, keys and values of the layer live: about half of what it needs at most.
        at_work = max(layer.forward, layer.forward // 2 + self._reading(), head.hidden + head.forward)
        maps = setting.generation_batch * setting.reading_layers * self._rows_read * self._keys_kept * 4
        return {
            "gradients": self.sharded.gradients if self._generates_amid_gradients() else 0,
            "activations": max(base + layer.forward, self._seeing(self._vision_block(batch))),
            "attention reading and logits": max(0, at_work - layer.forward),
            "attention maps": maps,
            "gathered layers": self.sharded.gathered,
        }

    @property
    def _rows_read(self) -> int:
        return self.setting.completion_tokens + 1

    @property
    def _keys_kept(self) -> int:
        return self.tokens.visual if self.setting.maps else 0

    def _reading(self) -> int:
        """One block of float32 scores of one sample, its float32 queries and keys, and its attention map."""
        heads, kv_heads = self.text.num_attention_heads, self.text.num_key_value_heads
        scores = min(self.setting.byte_budget, 4 * heads * self._rows_read * self.length)
        operands = 4 * self.tracer.head_dim * (kv_heads * self.length + 2 * heads * self._rows_read)
        return scores + operands + 2 * 4 * heads * self._rows_read * self._keys_kept

    def _objective(self) -> int:
        """What reading with a graph keeps for the backward pass: see `sayo.attention.read`."""
        setting, heads, kv_heads = self.setting, self.text.num_attention_heads, self.text.num_key_value_heads
        if not setting.objective:
            return 0
        rows = setting.completion_tokens
        operands = self.tracer.head_dim * (kv_heads * self.length + heads * rows)
        layers = 1 if setting.checkpointing else setting.reading_layers
        return layers * setting.micro_batch * 4 * (heads * rows * self.length + operands)

    def _backward(self) -> dict[str, int]:
        """Walk from the head back to the images and keep the largest moment."""
        accumulates = self.setting.accumulation > 1 or self.sharded.gradients < self._all_gradients()
        stages = self._stages()
        shared = self._shared(self.setting.micro_batch, self.length)
        kept, done, moments = sum(stage.kept for stage in stages), 0, []
        for stage in reversed(stages):
            gradients = self.sharded.gradients if accumulates else done
            moments.append(
                {
                    "gradients": gradients,
                    "activations": shared + kept + stage.extra,
                    stage.name: stage.working,
                }
            )
            kept, done = kept - stage.kept, done + stage.gradients
        worst = max(moments, key=lambda moment: sum(moment.values()))
        return {**worst, "attention objective": self._objective(), "gathered layers": self.sharded.gathered}

    def _all_gradients(self) -> int:
        return self.policy.total().trainable_bytes

    def _stages(self) -> list[_Stage]:
        setting, decoder, vision = self.setting, self.policy.decoder, self.policy.vision
        batch = setting.micro_batch
        layer, block = self.tracer.decoder_layer(batch, self.length), self._vision_block(batch)
        merger = self.tracer.merger(self.patches * batch) if self.patches else None
        embedding = trainable_bytes(decoder.embed_tokens)  # dense, although a batch holds few of the words
        stages = [_Stage("gradient of the embeddings", 0, 0, embedding + layer.input, 0)]
        stages += [self._patch_embedding(batch)]
        stages += [self._layer_stage("backward of a vision block", block, vision.blocks[0])] * len(vision.blocks)
        if merger:
            stages += [self._plain_stage("backward of the merger", merger, vision.merger)] * self.mergers
        stages += [self._layer_stage("backward of a layer", layer, decoder.layers[0])] * len(decoder.layers)
        stages += [self._plain_stage("backward of the norm", self.tracer.norm(batch, self.length), decoder.norm)]
        head = self._head(learns(self.policy.base.lm_head))
        gradients = trainable_bytes(self.policy.base.lm_head)
        return [*stages, _Stage("head and its tiles", head.hidden, 0, max(head.backward, head.forward), gradients)]

    def _head(self, learns_head: bool) -> HeadBytes:
        return head_bytes(self.text, self.setting, self.length, learns_head, self.itemsize)

    def _patch_embedding(self, batch: int) -> _Stage:
        trained = trainable_bytes(self.policy.vision.patch_embed)
        cast = self._pixels(batch) // 4 * self.itemsize if trained and self.itemsize < 4 else 0
        return _Stage("gradient of the patch embedding", cast, 0, 2 * trained, trained)

    def _layer_stage(self, name: str, layer: LayerBytes, module) -> _Stage:
        gradients = trainable_bytes(module)
        if not layer.saved:  # frozen: nothing is kept, but it runs
            return _Stage(name, 0, 0, 0, 0)
        if self.setting.checkpointing:
            return _Stage(name, layer.input, layer.saved, layer.output + layer.backward, gradients)
        return _Stage(name, layer.saved, 0, layer.output + layer.backward, gradients)

    def _plain_stage(self, name: str, layer: LayerBytes, module) -> _Stage:
        return _Stage(name, layer.saved, 0, layer.output + layer.backward, trainable_bytes(module))

    def _vision_block(self, batch: int) -> LayerBytes | None:
        images = max(1, self.tokens.images) * batch
        per_image = self.patches * batch // images
        return self.tracer.vision_block(per_image, images) if per_image else LayerBytes(0, 0, 0, 0, 0)

    def _seeing(self, block: LayerBytes) -> int:
        """The vision tower at work without gradients."""
        return block.input + block.forward
