"""Whole model calls (a forward, or `generate`), forward by forward: what the notebook API and steering share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from torch import nn

from sayo.attention.captured import AttentionNotCaptured, no_kernel_call
from sayo.attention.groups import check_grids, key_groups
from sayo.attention.kernel import Listener, shared_patch, tapped
from sayo.attention.layers import inner_model


@dataclass(frozen=True, eq=False)
class Prompt:
    """The padded prompts of one call."""

    ids: torch.Tensor  # (B, P) int64
    real: torch.Tensor  # (B, P) bool, False on padding
    image: torch.Tensor  # (B, P) bool, True on visual tokens
    image_index: torch.Tensor  # (B, N) int64, positions of the visual tokens, padded with 0
    region: torch.Tensor  # (B, P) float32, coverage weights of the regions of `samples`
    inputs: Mapping[str, Any]  # all arguments of the forward that ran the prompts

    @classmethod
    def of(
        cls, ids: torch.Tensor, inputs: Mapping[str, Any], config: Any, samples: Sequence[Mapping] | None = None
    ) -> "Prompt":
        """The prompts `ids` of a forward with these arguments; `samples` as for `key_groups`, one per prompt."""
        mask = inputs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.shape == ids.shape:
            real = mask.bool()
        else:  # static caches get their masks ready-made: what is left padding shows in the ids
            pad = config.get_text_config().pad_token_id
            real = (ids != (-1 if pad is None else pad)).cumsum(dim=1) > 0
        rows = [{}] * len(ids) if samples is None else per_row(samples, len(ids), "samples")
        if isinstance(grids := inputs.get("image_grid_thw"), torch.Tensor):
            check_grids(rows, grids)
        groups, index = key_groups(ids, 0, rows, config)
        return cls(ids, real, groups["image"] > 0, index, groups["region"], inputs)


def per_row(values: Sequence, num_rows: int, name: str) -> list:
    """Repeat what belongs to a prompt for each of its sequences (`num_return_sequences`, beams).

    Raises:
        ValueError: the rows of the batch are no multiple of the values, which the message calls `name`.
    """
    times, rest = divmod(num_rows, len(values))
    if rest or not times:
        raise ValueError(f"{len(values)} {name} were given for a batch of {num_rows} sequences.")
    return [value for value in values for _ in range(times)]


class CallListener(Listener):
    """Whoever also follows the forwards of the model, and puts into `seen` each layer whose kernel it saw in one."""

    seen: set[int]

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Follow the calls of a model, wrapped or not, while the body runs."""
        inner = inner_model(model)
        announced = shared_patch(("generate", id(inner)), partial(_announce_generate, inner))
        with tapped(model, self), announced, ExitStack() as hooks:
            _FOLLOWERS.setdefault(id(inner), []).append(self)
            hooks.callback(lambda: _FOLLOWERS[id(inner)].remove(self))
            hooks.callback(inner.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            hooks.callback(inner.register_forward_hook(self._after).remove)
            yield

    def generates(self, ids: torch.Tensor | None, mask: torch.Tensor | None) -> None:
        """Called when `model.generate` starts, with its prompts and attention mask, and with None when it ends."""

    def before(self, ids: torch.Tensor, past: int, inputs: Mapping[str, Any]) -> None:
        """Called before a forward over `ids`, `(B, S)`, with `past` tokens in its cache and all its arguments."""

    def after(self, output: Mapping[str, Any]) -> None:
        """Called with what a forward returned."""

    def _before(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise AttentionNotCaptured(
                "The model was called without input_ids, so its image tokens cannot be found: pass input_ids (or, to "
                "read only, use `capture.reading(...)` with your own key groups)."
            )
        cache = kwargs.get("past_key_values")
        self.before(ids, 0 if cache is None else int(cache.get_seq_length()), kwargs)
        self.seen = set()

    def _after(self, model: nn.Module, args: tuple, output: Mapping[str, Any]) -> None:
        for layer in self.layers:
            if layer not in self.seen:
                raise no_kernel_call(layer, model.config.get_text_config()._attn_implementation)
        self.after(output)


_FOLLOWERS: dict[int, list[CallListener]] = {}  # id of a model -> who follows its calls


def _announce_generate(model: nn.Module) -> Callable[[], object]:
    """Tell who follows the model of each call of its `generate`: forwards alone do not show where a call starts."""
    own, stock = vars(model).get("generate"), getattr(model, "generate", None)
    if stock is None:  # a model without its head
        return lambda: None

    @wraps(stock)
    def generate(inputs=None, *args, **kwargs):
        followers = tuple(_FOLLOWERS[id(model)])
        ids = kwargs.get("input_ids") if inputs is None else inputs
        try:
            for follower in followers:
                follower.generates(ids, kwargs.get("attention_mask"))
            return stock(inputs, *args, **kwargs)
        finally:
            for follower in followers:
                follower.generates(None, None)

    model.generate = generate
    return partial(vars(model).pop, "generate") if own is None else partial(setattr, model, "generate", own)
