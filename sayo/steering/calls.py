"""Base class of steering: hooks the attention kernels and keeps track of the prompts of the running call."""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sayo.attention.captured import AttentionNotCaptured, no_kernel_call
from sayo.attention.groups import key_groups
from sayo.attention.kernel import tapped
from sayo.attention.layers import LayerSpec, attention_layers, inner_model, resolve_layers


@dataclass
class Prompt:
    """The padded prompts of one call.

    Attributes:
        ids: `(B, P)` int64.
        real: `(B, P)` bool, False on padding.
        image: `(B, P)` bool, True on visual tokens.
        image_index: `(B, N)` int64, positions of the visual tokens, padded with 0.
        inputs: all arguments of the forward that ran the prompts.
    """

    ids: torch.Tensor
    real: torch.Tensor
    image: torch.Tensor
    image_index: torch.Tensor
    inputs: Mapping[str, Any]

    def per_row(self, values: Sequence, name: str) -> list:
        """Repeat each prompt's value for its sequences (`num_return_sequences`, beams)."""
        times, rest = divmod(len(self.ids), len(values))
        if rest or not times:
            raise ValueError(f"{name} has {len(values)} entries for a batch of {len(self.ids)} sequences.")
        return [value for value in values for _ in range(times)]


class Steering:
    """Context manager that changes the inputs of the chosen layers' attention kernels while the body generates.

    A forward with an empty cache starts a call; its tokens are the prompts. Later forwards belong to the call if they
    continue from the cache, or run the same prompts with more tokens appended (`use_cache=False`, a teacher-forced
    pass over prompts + completions). No state outlives the `with` block or the call. Beam search reorders only the
    rows of one prompt, which share all state.

    Args:
        model: any transformers vision-language model, wrapped or not.
        layers: the decoder layers to steer; see `AttentionCapture`.
        tail: the tokens with which the chat template ends every prompt. They distinguish a teacher-forced pass, which
            starts with the same prompts, from the next turn of a chat, which ends with the tail again.

    Raises:
        ValueError: no layers with attention weights, or an unknown layer.
    """

    def __init__(self, model: nn.Module, layers: LayerSpec, tail: Sequence[int] = ()):
        self._model, self._inner = model, inner_model(model)
        self._tail = torch.tensor(tail, dtype=torch.long)
        depth = self._inner.config.get_text_config().num_hidden_layers
        self.layers = resolve_layers(layers, tuple(attention_layers(model)), depth)
        self._stack: ExitStack | None = None
        self._forget()

    def __enter__(self):
        if self._stack is not None:
            raise RuntimeError("This steering is already open: create a second one to nest them.")
        modules = {layer: module for layer, module in attention_layers(self._model).items() if layer in self.layers}
        self._check_kernel(modules[self.layers[0]].config._attn_implementation)
        with ExitStack() as stack:
            stack.callback(self._forget)
            stack.enter_context(tapped(modules, self))
            stack.callback(self._inner.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            stack.callback(self._inner.register_forward_hook(self._after, with_kwargs=True).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        stack, self._stack = self._stack, None
        stack.close()

    # For subclasses

    def _start(self, prompt: Prompt) -> None:
        """Called when a call starts."""

    def _check_kernel(self, kernel: str) -> None:
        """Raise if the kernel cannot be steered."""

    def adjust(self, layer: int, module: nn.Module, query, key, attention_mask, kernel: str, **kwargs) -> tuple:
        """Return the query, key and mask for the kernel, and add `layer` to `_adjusted`, which is checked."""
        raise NotImplementedError

    def _on_keys(self, weights: torch.Tensor, num_keys: int) -> torch.Tensor:
        """`(B, P)` weights over the prompts -> `(B, num_keys)`, 0 for later keys.

        Sliding caches drop the oldest keys; static caches have empty slots at the end.
        """
        num_tokens = int(self._positions[-1]) + 1
        full = nn.functional.pad(weights, (0, max(num_tokens, num_keys) - weights.shape[1]))
        return full[:, num_tokens - num_keys :] if num_keys < num_tokens else full

    # The call

    def _forget(self) -> None:
        self._prompt: Prompt | None = None
        self._positions = torch.zeros(0, dtype=torch.long)
        self._adjusted: set[int] = set()

    def _before(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise AttentionNotCaptured(
                "The model was called without input_ids, which show where the image tokens are."
            )
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        if past == 0 and not self._continues(ids):
            self._forget()
            self._prompt = self._read_prompt(ids, kwargs)
            self._start(self._prompt)
        elif self._prompt is None or len(self._prompt.ids) != len(ids):
            raise AttentionNotCaptured(
                "The cache holds tokens that the steering has not seen: enter it before the prompt is run, and do not "
                "change the batch."
            )
        self._positions = torch.arange(past, past + ids.shape[1])
        self._adjusted = set()

    def _continues(self, ids: torch.Tensor) -> bool:
        """Whether a forward without a cache runs the call's prompts again with more tokens appended."""
        length = 0 if self._prompt is None else self._prompt.ids.shape[1]
        if not 0 < length < ids.shape[1] or not torch.equal(ids[:, :length], self._prompt.ids):
            return False
        if len(self._tail):
            return not self._ends_with_tail(ids)
        return ids.shape[1] == int(self._positions[-1]) + 2  # `use_cache=False` adds token after token

    def _ends_with_tail(self, ids: torch.Tensor) -> bool:
        tail = self._tail.to(ids.device)
        return ids.shape[1] >= len(tail) and bool((ids[:, ids.shape[1] - len(tail) :] == tail).all())

    def _read_prompt(self, ids: torch.Tensor, kwargs: dict) -> Prompt:
        if not self._ends_with_tail(ids):
            raise ValueError(
                "A prompt does not end like the processor's chat template, so its last question token is unknown: pad "
                "prompts on the left, use add_generation_prompt=True, do not split prompts, or omit the processor "
                "(then the last token of the prompt counts as the question's last)."
            )
        mask = kwargs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.dim() == 2:
            real = mask.bool()
        else:  # static caches get a ready-made 4-d mask: find the left padding in the ids
            pad = self._inner.config.get_text_config().pad_token_id
            real = (ids != (-1 if pad is None else pad)).cumsum(dim=1) > 0
        image_token_id = getattr(self._inner.config, "image_token_id", None)
        groups, index = key_groups(ids, 0, [{}] * len(ids), -1 if image_token_id is None else image_token_id)
        return Prompt(ids, real, groups["image"] > 0, index, kwargs)

    def _after(self, model: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        for layer in self.layers:
            if layer not in self._adjusted:
                raise no_kernel_call(layer, model.config.get_text_config()._attn_implementation)

    # The rest of `attention.kernel.Listener` is not needed: nothing is read, and `_after` checks the layers.

    def read(self, *_: object, **__: object) -> None: ...

    def ran(self, layer: int) -> None: ...


def template_tail(processor: Any) -> list[int]:
    """The tokens that the chat template puts after the last user message, including the generation prompt.

    Raises:
        ValueError: the processor has no chat template.
    """
    if getattr(processor, "chat_template", None) is None:
        raise ValueError("The processor has no chat template: omit it.")
    ids = []
    for text in ("Alpha", "7"):
        messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        rendered = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids.append(processor.tokenizer(rendered, add_special_tokens=False)["input_ids"][::-1])
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ids, strict=False))
    return [token for token, _ in same][::-1]
