"""Exact attention of chosen layers, rows and key groups, read beside any kernel while the model runs as always."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from sayo.attention.calls import CallCapture
from sayo.attention.captured import AttentionNotCaptured, CapturedMasses
from sayo.attention.kernel import tapped
from sayo.attention.layers import LayerSpec, attention_layers, inner_model, resolve_layers
from sayo.attention.trace import AttentionTrace


class AttentionCapture:
    """Reads attention of a transformers model, in whatever kernel it runs.

    Used as a context manager, it reads every row whose logits the model computes: of `generate` the rows that decided
    each token, of a plain forward all of them. `trace` then hands it out, one trace per sequence. A trainer
    that knows its rows and key groups uses `reading` instead, which holds nothing else and can keep the graph.

    Args:
        model: any transformers vision-language (or causal) model; DDP, DeepSpeed, FSDP2 and PEFT wrappers are fine.
        layers: `"last"`, `"all"`, an index (also negative), a range `"4-7"`, a fraction of the depth, or a list.
        per_head: keep the query heads apart (`reading` only).
        byte_budget: upper bound in bytes of one block of scores; on a CPU blocks also stay within its cache.
        samples: for traces, one mapping per prompt with `region_tokens`, `region_weights` (they become the group
            `"region"`) and `num_visual_tokens` (checked), as `sayo prepare` writes them.
        groups: for traces, further key groups -> `(B, P)` weights over the padded prompts.
        maps: keep the attention on every visual token (of traces, and in `sayo.rollout`).
        temperature: for traces, of the distributions whose entropy is kept.

    Raises:
        ValueError: no layers with attention weights, or an unknown layer.

    Example:
        >>> with AttentionCapture(model, layers="last") as capture:
        ...     output = model.generate(**inputs, max_new_tokens=64)
        >>> trace = capture.trace(output)[0]
        >>> trace.mass("image", rows="deciding")  # (layers, tokens)
    """

    def __init__(
        self,
        model: nn.Module,
        layers: LayerSpec = "last",
        *,
        per_head: bool = False,
        byte_budget: int = 64 * 2**20,
        samples: Sequence[Mapping] | None = None,
        groups: Mapping[str, torch.Tensor] | None = None,
        maps: bool = False,
        temperature: float = 1.0,
    ):
        self._model = model
        self._inner = inner_model(model)
        num_layers = self._inner.config.get_text_config().num_hidden_layers
        self.layers = resolve_layers(layers, tuple(attention_layers(model)), num_layers)
        self.maps = maps
        self._options = {"per_head": per_head, "byte_budget": byte_budget}
        self._call_options = {"samples": samples, "groups": groups, "maps": maps, "temperature": temperature}
        self._calls: CallCapture | None = None
        self._stack: ExitStack | None = None

    @contextmanager
    def reading(
        self,
        rows: slice | torch.Tensor,
        groups: Mapping[str, torch.Tensor],
        image_index: torch.Tensor | None = None,
        *,
        gradients: bool = False,
    ) -> Iterator[CapturedMasses]:
        """Read while the body runs the model once over the batch (whole, or in consecutive chunks).

        Args:
            rows: query rows to read: a slice of the sequence, or `(R,)` / `(B, R)` int64 positions in it (also where
                a cache already holds its first tokens).
            groups: key group -> `(B, S)` bool or float weights over the padded sequence.
            image_index: `(B, N)` int64 key positions whose attention is kept one by one.
            gradients: keep the graph, for a loss on the masses. Under (non-reentrant) gradient checkpointing, call
                `backward` inside the `with` block too: it runs the layers again.

        Raises:
            AttentionNotCaptured: the body ended before all of it was read.
        """
        captured = CapturedMasses(self.layers, rows, groups, image_index, gradients, self._options)
        with tapped(self._model, captured) as kernel:
            yield captured
        captured.check(kernel)

    def __enter__(self) -> "AttentionCapture":
        if self._options["per_head"]:
            raise ValueError("Traces are averaged over heads: use `capture.reading(...)` for per_head=True.")
        if self._stack is not None:
            raise RuntimeError("This capture is open already: make a second one to nest them.")
        self._calls = CallCapture(self.layers, self._inner.config, options=self._options, **self._call_options)
        with ExitStack() as stack:
            stack.enter_context(self._calls.following(self._model))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        self._stack.close()
        self._stack = None
        if error_type is None:
            self._calls.check()

    def trace(
        self,
        output: torch.Tensor | Mapping | None = None,
        *,
        prompt_length: int | None = None,
        eos_token_id: int | Sequence[int] | None = None,
    ) -> list[AttentionTrace]:
        """One trace per sequence of the last call inside the `with` block (may be asked for inside it, too).

        Args:
            output: what `generate` returned. A trace then has the `T` rows that decided the `T` tokens, the end of
                sequence included. The last token's own row does not exist: generate never runs it, so
                `rows="of_token"` raises. Left out after a plain forward over prompts + completions, whose traces have
                both kinds of rows.
            prompt_length: length of the padded prompts; needed after a plain forward.
            eos_token_id: where completions end; by default the model's `generation_config` says.

        Raises:
            AttentionNotCaptured: nothing ran, or the tokens that ran are not those of `output` (beam search moves
                rows between forwards).
        """
        if self._calls is None:
            raise AttentionNotCaptured("Open the capture first: `with capture: model.generate(**inputs)`.")
        if eos_token_id is None:
            generation = getattr(self._inner, "generation_config", None)
            eos_token_id = getattr(generation, "eos_token_id", None)
        return self._calls.traces(output, prompt_length, eos_token_id)
