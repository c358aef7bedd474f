"""Ask a transformers model, batch by batch, and read where it looks while it answers."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from sayo.attention import AttentionCapture
from sayo.attention.layers import LayerSpec
from sayo.evaluation.records import Reply
from sayo.geometry import VisualLayout, region_tokens
from sayo.recipes import ModelSection
from sayo.rollout import Completions, completion_log_probs, generate, processor_inputs, read_traces, token_offsets
from sayo.training.setup import load_policy, load_processor

Answered = tuple[Mapping[str, Any], list[Reply]]


class LocalModel:
    """A policy in this process.

    Args:
        model, processor: transformers'; the processor pads on the left.
        num_samples: completions per question.
        batch_size: completions at once.
        layers: decoder layers whose attention is reported; all others are read beside them, each on its own.
        seed: with the index of a batch's first question it seeds the batch, so that a resumed run samples what it
            would have sampled.
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
        self.model, self.processor = model.eval(), processor
        self.num_samples, self.temperature, self.max_new_tokens = num_samples, temperature, max_new_tokens
        self.batch_size, self.seed, self._layers = max(1, batch_size // num_samples), seed, layers
        self._is_warned = False
        self._end_ids = np.atleast_1d(model.generation_config.eos_token_id or []).tolist()

    @classmethod
    def from_pretrained(cls, section: ModelSection, **kwargs: Any) -> "LocalModel":
        """Load policy and processor (of `sayo.recipes.model_section`); bfloat16 on a GPU, float32 without one."""
        device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
        section = section.model_copy(update={"dtype": dtype})
        return cls(load_policy(section).to(device), load_processor(section), **kwargs)

    @cached_property
    def _captures(self) -> list[AttentionCapture]:
        """One of the reported layers, one of all others; made when first wanted, so that any model can answer."""
        reported = AttentionCapture(self.model, layers=self._layers, maps=True)
        every = AttentionCapture(self.model, layers="all").layers
        others = [layer for layer in every if layer not in reported.layers]
        return [reported, *([AttentionCapture(self.model, layers=others)] if others else [])]

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder layers that are reported."""
        return self._captures[0].layers

    @cached_property
    def layout(self) -> VisualLayout:
        return VisualLayout.from_processor(self.processor, self.model.config)

    def answer(self, rows: Iterable[Mapping[str, Any]], attention: bool = False) -> Iterator[Answered]:
        """Every row with its replies, in order; with their attention if it is wanted."""
        rows = iter(rows)
        while batch := list(islice(rows, self.batch_size)):
            yield from self._batch([self.located(row) for row in batch] if attention else batch, attention)

    def read(self, row: Mapping[str, Any], replies: Sequence[Reply]) -> list[Reply]:
        """Replies that another engine gave to a row, with the attention that this model pays when it reads them."""
        if any(reply.text is None for reply in replies):  # it is asked again by the next run
            return list(replies)
        ((_, read),) = self._batch([self.located(row)], True, replies)
        return [own if own.error else Reply(*reply[:5], *own[5:]) for reply, own in zip(replies, read, strict=True)]

    def log_probs(self, rows: Sequence[Mapping[str, Any]], reply: Reply) -> np.ndarray:
        """`(B,)` mean log-probability of the reply's tokens as the response to each row."""
        found = []
        for first in range(0, len(rows), self.batch_size):
            batch = rows[first : first + self.batch_size]
            completions = self._ids_of([reply] * len(batch))
            inputs = processor_inputs(self.processor, batch, self.model.device)
            sums = completion_log_probs(self.model, inputs, completions).sum(dim=1)
            found.append((sums / completions.mask.sum(dim=1)).cpu().numpy())
        return np.concatenate(found)

    def located(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with the visual tokens of its regions for this model's processor.

        Rows prepared for this processor keep theirs; the first of others is warned about. A region that this model
        cannot see is dropped and counted.
        """
        regions, prepared_for = row.get("regions") or [], row.get("processor_fingerprint")
        if (not regions and prepared_for is None) or prepared_for == self.layout.fingerprint:
            return row
        if prepared_for is not None and not self._is_warned:
            self._is_warned = True
            warnings.warn(
                f"the rows were prepared for other visual tokens ({prepared_for}) than the model's "
                f"({self.layout.fingerprint}): their regions are mapped anew. --size gives the model the pixel limits "
                "of the data, `sayo map` gives the data those of the model.",
                stacklevel=2,
            )
        cells = [self.layout.cells(*image.size, num_images=len(row["images"])) for image in row["images"]]
        visible = []
        for region in regions:
            with suppress(ValueError):
                region_tokens(cells, [region])
                visible.append(region)
        tokens, weights = region_tokens(cells, visible) if visible else ([], [])
        return {
            **row,
            "regions": visible,
            "regions_dropped": len(regions) - len(visible),
            "region_tokens": list(map(int, tokens)),
            "region_weights": list(map(float, weights)),
            "num_visual_tokens": list(map(len, cells)),
        }

    def _batch(
        self, batch: Sequence[Mapping[str, Any]], attention: bool, given: Sequence[Reply] | None = None
    ) -> Iterator[Answered]:
        num_samples = self.num_samples if given is None else len(given)
        rows = [row for row in batch for _ in range(num_samples)]
        try:
            inputs = processor_inputs(self.processor, rows, self.model.device)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # processors refuse odd pictures in many ways; find out whose picture it is
            if len(batch) > 1:
                for row in batch:
                    yield from self._batch([row], attention)
            else:
                yield batch[0], [Reply(error="processor", message=str(error))] * num_samples
            return
        torch.manual_seed(self.seed + 1_000_003 * int(batch[0].get("index") or 0))
        limits = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
        completions = self._ids_of(given) if given else generate(self.model, self.processor, inputs, **limits)
        traces = [[None] * len(rows)] * 2
        if attention:
            read = (self.model, self.processor, inputs, completions, rows, self._captures, self.temperature)
            traces = [*read_traces(*read), traces[0]][:2]
        replies = []
        for row, mask, trace, others in zip(completions.ids, completions.mask, *traces, strict=True):
            ids = row[: int(mask.sum())].tolist()
            text, offsets = token_offsets(self.processor.tokenizer, ids, skip_special_tokens=True)
            truncated = len(ids) >= self.max_new_tokens and ids[-1] not in self._end_ids
            replies.append(Reply(text, None, None, len(ids), truncated, trace, others, offsets))
        for index, row in enumerate(batch):
            yield row, replies[index * num_samples : (index + 1) * num_samples]

    def _ids_of(self, replies: Sequence[Reply]) -> Completions:
        """Texts as completions; each ends with the end of sequence, unless it was cut off."""
        tokenizer, sequences = self.processor.tokenizer, []
        for reply in replies:
            ids = tokenizer(reply.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            ids = ids if reply.truncated and ids else [*ids, *self._end_ids[:1]]
            sequences.append(torch.tensor(ids, device=self.model.device))
        mask = pad_sequence([torch.ones_like(ids) for ids in sequences], batch_first=True)
        return Completions(pad_sequence(sequences, batch_first=True, padding_value=tokenizer.pad_token_id), mask)
