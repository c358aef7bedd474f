"""Base class of steering: hooks the attention kernels and keeps track of the prompts of the running call."""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from sayo.attention.captured import AttentionNotCaptured
from sayo.attention.following import CallListener, Prompt
from sayo.attention.layers import LayerSpec, attention_layers, inner_model, resolve_layers


class Steering(CallListener):
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
        with ExitStack() as stack:
            stack.callback(self._forget)
            stack.enter_context(self.following(self._model))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        stack, self._stack = self._stack, None
        stack.close()

    # For subclasses, beside `adjust`

    def _start(self, prompt: Prompt) -> None:
        """Called when a call starts."""

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
        self.seen: set[int] = set()

    def before(self, ids: torch.Tensor, past: int, inputs: Mapping[str, Any]) -> None:
        if past == 0 and not self._continues(ids):
            self._forget()
            if not self._ends_with_tail(ids):
                raise ValueError(
                    "A prompt does not end like the processor's chat template, so its last question token is unknown: "
                    "pad prompts on the left, use add_generation_prompt=True, do not split prompts, or omit the "
                    "processor (then the last token of the prompt counts as the question's last)."
                )
            self._prompt = Prompt.of(ids, inputs, self._inner.config)
            self._start(self._prompt)
        elif self._prompt is None or len(self._prompt.ids) != len(ids):
            raise AttentionNotCaptured(
                "The cache holds tokens that the steering has not seen: enter it before the prompt is run, and do not "
                "change the batch."
            )
        self._positions = torch.arange(past, past + ids.shape[1])

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


def template_tail(processor: Any, suffix: str = "") -> list[int]:
    """The tokens behind the question: those of `suffix`, a line under it, and the chat template's generation prompt.

    Raises:
        ValueError: the processor has no chat template.
    """
    if getattr(processor, "chat_template", None) is None:
        raise ValueError("The processor has no chat template: omit it.")
    ids = []
    for text in ("Alpha", "7"):
        text = f"{text}\n{suffix}" if suffix else text
        messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        rendered = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids.append(processor.tokenizer(rendered, add_special_tokens=False)["input_ids"][::-1])
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ids, strict=False))
    return [token for token, _ in same][::-1]
