"""The attention of a rollout, read while transformers' `generate` writes it: no pass over prompt + completion more.

Each forward of `generate` computes the query of one new row, and its cache ends up with the keys of all. So the
queries and masks are kept as they come, and read against the last keys at once, as in a scoring pass. The one row that
`generate` never runs is the last token's own: one more decode step gives it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers.generation.utils import MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL as OF_IMAGES

from sayo.attention.captured import read_layer
from sayo.attention.kernel import Listener, tapped
from sayo.attention.layers import inner_model

QUERY_BYTES = 2**28
"""Upper bound of the queries that are kept of one generation; where they are more, a scoring pass reads in pieces."""


@contextmanager
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """What the body draws from torch's generators (dropout) is as if it had not been drawn."""
    on_cpu = device.type == "cpu"
    with torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type):
        yield


def obstacle(trainer: Any) -> str | None:
    """Why attention cannot be read while a GRPO trainer generates, as words after "because"; None where it can."""
    is_sharded = trainer.is_fsdp_enabled or (trainer._dist.is_zero3 and not trainer.args.ds3_gather_for_generation)
    cases = {
        "vLLM generates": trainer.use_vllm,
        "a rollout function generates": trainer.rollout_func is not None,
        "batches are continuous": trainer.use_transformers_continuous_batching,
        "tools write into the completions": trainer.tools,
        "the cache is of another kind (cache_implementation)": trainer.args.cache_implementation,
        "the weights are sharded while generating": is_sharded,
    }
    return next((words for words, applies in cases.items() if applies), None)


class GenerationReading(Listener):
    """Rows of one call of `generate`, `P - 1 .. P + T - 1`.

    Args:
        layers: that are read.
        temperature: of the distributions whose entropy is kept.

    Attributes:
        problem: why nothing could be read, or None; the words follow "because".
        sequences: `(B, P + T)` int64, what `generate` returned.
        prompts: `input_ids` and `attention_mask`, `(B, P)`.
        entropies: `(B, T)` nats.
    """

    def __init__(self, layers: tuple[int, ...], temperature: float):
        self.layers, self.temperature = layers, temperature
        self.problem: str | None = None
        self.prompts: dict[str, torch.Tensor] = {}
        self._ran: list[torch.Tensor] = []  # tokens of each forward after the prompt's
        self._queries: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        self._masks: dict[int, list[torch.Tensor | None]] = {layer: [] for layer in layers}
        self._last: dict[int, tuple] = {}  # module, keys, kernel and its keyword arguments
        self._entropies: list[torch.Tensor] = []

    @contextmanager
    def during(self, model: nn.Module) -> Iterator[None]:
        """Read the one call of `generate` that the body makes."""
        inner = inner_model(model)
        stock = inner.generate

        def generate(*args: Any, **kwargs: Any) -> torch.Tensor:
            self.sequences = stock(*args, **kwargs)
            with random_numbers_kept(self.sequences.device):
                self._finish(inner)
            return self.sequences

        hooks = [
            inner.register_forward_pre_hook(self._before, with_kwargs=True),
            inner.register_forward_hook(self._after),
        ]
        inner.generate = generate
        try:
            with tapped(model, self):
                yield
        finally:
            del inner.generate  # the class has its own
            for hook in hooks:
                hook.remove()

    def _before(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        ids, cache, mask = (kwargs.get(name) for name in ("input_ids", "past_key_values", "attention_mask"))
        past = 0 if cache is None else int(cache.get_seq_length())
        if not self.prompts:
            ids = torch.zeros(1, 0) if ids is None else ids
            mask = torch.ones_like(ids) if mask is None else mask  # generate leaves one out that hides nothing
            if cache is None or past or getattr(mask, "shape", None) != ids.shape:
                self.problem = "generate does not run a plain prompt with an empty cache"
            self.prompts = {"input_ids": ids, "attention_mask": mask}
        elif ids is None or ids.shape[1] != 1 or past != self._prompt_length + len(self._ran):
            self.problem = self.problem or "generate runs without a cache, or several tokens at once"
        else:
            self._ran.append(ids)
        self._inputs, self._num_keys = kwargs, past + (0 if ids is None else ids.shape[1])

    @property
    def _prompt_length(self) -> int:
        return self.prompts["input_ids"].shape[1]

    def read(self, layer: int, module: nn.Module, query, key, attention_mask, kernel: str, **kwargs) -> None:
        if self.problem is None:
            self.problem = self._unknown(layer, query, key, attention_mask, kernel, kwargs)
        if self.problem is not None:
            self._queries, self._masks, self._last = {}, {}, {}
            return
        mask, is_prompt = attention_mask, query.shape[2] > 1
        if mask is not None:
            mask = mask[:, None, None].bool() if mask.dim() == 2 else mask[:, :, -1:]
            mask = mask[..., : key.shape[2]]
        # A copy of the prompt's last row, so that the rest of the prompt's can be freed.
        self._queries[layer].append(query[:, :, -1:].clone() if is_prompt else query)
        self._masks[layer].append(mask.clone() if is_prompt and mask is not None else mask)
        self._last[layer] = (module, key, kernel, kwargs)

    def _unknown(self, layer: int, query, key, mask, kernel: str, kwargs: Mapping) -> str | None:
        if key.shape[2] != self._num_keys or (kwargs.get("sliding_window") or key.shape[2]) < key.shape[2]:
            return f"layer {layer} has a window, or a cache with fewer or more keys than tokens"
        tensors = [value for value in kwargs.values() if isinstance(value, torch.Tensor) and value.dim() == 4]
        is_once = len(self._queries[layer]) == len(self._ran)  # not so in a difference of attentions
        if tensors or not is_once or not (mask is None or getattr(mask, "ndim", 0) in (2, 4)):
            return f"the kernel {kernel!r} of layer {layer} takes more than queries, keys and a plain mask"
        if len(self.layers) * len(self._ran) * query[:, :, -1:].nbytes > QUERY_BYTES:
            return f"the queries of {len(self.layers)} layers would take more than {QUERY_BYTES >> 20} MiB"
        return None

    @torch.no_grad()
    def _after(self, model: nn.Module, args: tuple, output: Mapping[str, Any]) -> None:
        log_probs = torch.log_softmax(output["logits"][:, -1].float() / self.temperature, dim=-1)
        self._entropies.append(-(log_probs.exp() * log_probs).sum(dim=-1))

    def _finish(self, model: Any) -> None:
        """Compare what ran with what came out, and run the last token's own row (unless waiting for others has)."""
        new, rows = self.sequences[:, self._prompt_length :], len(self.prompts["input_ids"])
        ran = torch.cat([self.prompts["input_ids"], *self._ran], dim=1)[:, : self.sequences.shape[1]]
        if self.problem is None and not (len(new) == rows and torch.equal(ran, self.sequences[:, : ran.shape[1]])):
            self.problem = "generate moves sequences between rows (beam search)"
        if self.problem is None and len(self._last) < len(self.layers):
            self.problem = "the kernel of a layer was not seen"  # the scoring pass says more
        if self.problem is None and len(self._ran) < new.shape[1]:
            model(**self._next_inputs())
        self.entropies = torch.stack(self._entropies[: new.shape[1]], dim=1)
        self._inputs = {}

    def _next_inputs(self) -> dict[str, Any]:
        """Arguments of one more forward, over the last tokens. From those of the last one, as the model got them:
        `prepare_inputs_for_generation` would move PaliGemma's positions once more."""
        inputs = {name: self._inputs[name] for name in self._inputs if name not in OF_IMAGES}
        for name in ("position_ids", "cache_position", "token_type_ids", "mm_token_type_ids"):
            if inputs.get(name) is not None:
                inputs[name] = inputs[name][..., -1:] + (0 if "type" in name else 1)
        if (mask := inputs.get("attention_mask")) is not None:
            inputs["attention_mask"] = nn.functional.pad(mask, (0, 1), value=1)
        return {**inputs, "input_ids": self.sequences[:, -1:]}

    @torch.no_grad()
    def masses(
        self, groups: Mapping[str, torch.Tensor], image_index: torch.Tensor | None, byte_budget: int
    ) -> SimpleNamespace:
        """`layers`, `masses` and `maps` of all rows, as `CapturedMasses` has them.

        Args:
            groups: key weights `(B, P + T)`.
            image_index: `(B, N)` keys whose attention is kept one by one, or None.
        """
        rows, num_keys = torch.arange(self.sequences.shape[1] - self._prompt_length + 1), self.sequences.shape[1]
        weights = torch.stack([weight.float() for weight in groups.values()], dim=-1)
        masses, maps = [], []
        for layer in self.layers:
            module, key, kernel, kwargs = self._last.pop(layer)
            query = torch.cat(self._queries.pop(layer)[: len(rows)], dim=2)
            mask = self._mask(self._masks.pop(layer)[: len(rows)], len(query))
            read = read_layer(
                module, query, key[:, :, :num_keys], mask, kernel, rows, weights, image_index,
                options={"byte_budget": byte_budget}, **kwargs,
            )  # fmt: skip
            masses.append(read[0])
            maps.append(read[1])
        stacked = torch.stack(masses, dim=1)
        return SimpleNamespace(
            layers=self.layers,
            masses={name: stacked[..., index] for index, name in enumerate(groups)},
            maps=None if image_index is None else torch.stack(maps, dim=1),
        )

    def _mask(self, parts: list[torch.Tensor | None], batch: int) -> torch.Tensor:
        """`(B, 1 or H, T + 1, P + T)` what each row sees, from the masks of its forward."""
        device, width = self.sequences.device, self.sequences.shape[1]
        padded = []
        for index, part in enumerate(parts):
            length = self._prompt_length + index
            part = torch.ones(1, 1, 1, length, dtype=torch.bool, device=device) if part is None else part
            hidden = False if part.dtype == torch.bool else torch.finfo(part.dtype).min
            padded.append(nn.functional.pad(part, (0, width - length), value=hidden).expand(batch, -1, -1, -1))
        return torch.cat(padded, dim=2)
