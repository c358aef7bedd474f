"""Ask a transformers model, batch by batch, and read where it looks while it answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, pairwise
from typing import Any

import torch
from torch import nn

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.layers import LayerSpec
from sayo.evaluation.records import Reply
from sayo.evaluation.rollouts import completion_mask, processor_inputs, read_captures, sample_completions
from sayo.geometry import VisualLayout
from sayo.geometry import region_tokens as tokens_of_regions

Answered = tuple[Mapping[str, Any], list[Reply]]


class LocalModel:
    """A policy in this process.

    Args:
        model, processor: transformers'; the processor pads on the left.
        num_samples: completions per question.
        temperature: 0 is greedy.
        batch_size: completions at once.
        layers: decoder layers whose attention is reported; all others are read beside them, each on its own.
        seed: with the index of a batch's first question it seeds the batch, so that a run that goes on after it was
            killed samples what it would have sampled.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        num_samples: int = 1,
        temperature: float = 0.0,
        max_new_tokens: int = 256,
        batch_size: int = 64,
        layers: LayerSpec = "last",
        seed: int = 0,
    ):
        self.model, self.processor = model, processor
        self.num_samples, self.temperature, self.max_new_tokens = num_samples, temperature, max_new_tokens
        self.batch_size, self.seed, self._layers = max(1, batch_size // num_samples), seed, layers

    @cached_property
    def capture(self) -> AttentionCapture:
        """Reads the attention; made when it is first wanted, so that any model can at least answer."""
        return AttentionCapture(self.model, layers=self._layers)

    @cached_property
    def _captures(self) -> list[AttentionCapture]:
        """The capture, and one of all other layers: which layer tells right from wrong is worth knowing."""
        every = AttentionCapture(self.model, layers="all").layers
        others = [layer for layer in every if layer not in self.capture.layers]
        return [self.capture, *([AttentionCapture(self.model, layers=others)] if others else [])]

    @cached_property
    def layout(self) -> VisualLayout:
        """Where this model's visual tokens lie; made when a question first names a region."""
        return VisualLayout.from_processor(self.processor, self.model.config)

    def answer(self, rows: Iterable[Mapping[str, Any]], attention: bool = False) -> Iterator[Answered]:
        """Every row with its replies, in order; with their attention if it is wanted."""
        was_training = self.model.training
        self.model.eval()
        rows = iter(rows)
        try:
            while batch := list(islice(rows, self.batch_size)):
                yield from self._batch([self.located(row) for row in batch] if attention else batch, attention)
        finally:
            self.model.train(was_training)

    def located(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with the visual tokens of its regions for this model's processor.

        Rows prepared for this processor keep theirs. A region that this model cannot see is dropped and counted.
        """
        regions, prepared_for = row.get("regions") or [], row.get("processor_fingerprint")
        if (not regions and prepared_for is None) or prepared_for == self.layout.fingerprint:
            return row
        cells = [self.layout.cells(*image.size) for image in row["images"]]
        kept = []
        for region in regions:
            try:
                tokens_of_regions(cells, [region])
                kept.append(region)
            except ValueError:
                continue
        tokens, weights = tokens_of_regions(cells, kept) if kept else ([], [])
        return {
            **row,
            "regions": kept,
            "regions_dropped": len(regions) - len(kept),
            "region_tokens": list(map(int, tokens)),
            "region_weights": list(map(float, weights)),
            "num_visual_tokens": [len(image.footprints) for image in cells],
        }

    def _batch(self, batch: Sequence[Mapping[str, Any]], attention: bool) -> Iterator[Answered]:
        repeated = [row for row in batch for _ in range(self.num_samples)]
        try:
            inputs = processor_inputs(self.processor, repeated, self.model.device)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # processors refuse odd pictures in many ways; find out whose picture it is
            if len(batch) > 1:
                for row in batch:
                    yield from self._batch([row], attention)
            else:
                yield batch[0], [Reply(error="processor", message=str(error))] * self.num_samples
            return
        torch.manual_seed(self.seed + 1_000_003 * int(batch[0].get("index") or 0))
        ids = sample_completions(self.model, self.processor, inputs, self.max_new_tokens, self.temperature)
        mask = completion_mask(ids, self.model.generation_config.eos_token_id)
        read: list[tuple] = [()] * len(repeated)
        if attention:
            by_capture = read_captures(self.model, self._captures, inputs, ids, mask, repeated, self.temperature)
            read = list(zip(*by_capture, strict=True))
        replies = [
            self._reply(row[: int(keep.sum())], traces, bool(keep.all()))
            for row, keep, traces in zip(ids, mask, read, strict=True)
        ]
        for index, row in enumerate(batch):
            yield row, replies[index * self.num_samples : (index + 1) * self.num_samples]

    def _reply(self, ids: torch.Tensor, traces: Sequence[AttentionTrace], is_full: bool) -> Reply:
        tokenizer = self.processor.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=True)
        ends = torch.as_tensor(self.model.generation_config.eos_token_id, device=ids.device)
        truncated = is_full and len(ids) >= self.max_new_tokens and not torch.isin(ids[-1], ends).item()
        offsets = None
        if traces and "<back>" in text:
            # From the ids themselves: the text, tokenised again, may be cut elsewhere.
            ends_at = [len(tokenizer.decode(ids[:count], skip_special_tokens=True)) for count in range(len(ids) + 1)]
            offsets = list(pairwise(ends_at))
        trace, other_layers = (*traces, None, None)[:2]
        return Reply(
            text, length=len(ids), truncated=truncated, trace=trace, other_layers=other_layers, offsets=offsets
        )
