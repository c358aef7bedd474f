"""Attention of whole model calls (a forward, or `generate`), row by row as they run: what the notebook API reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributions import Categorical

from sayo.attention.captured import AttentionNotCaptured, is_recomputation, read_layer
from sayo.attention.following import CallListener, Prompt, per_row
from sayo.attention.groups import is_visual
from sayo.attention.trace import AttentionTrace

LATER = ("text", "response")  # groups to which every token after the prompt belongs


@dataclass(eq=False)
class CallCapture(CallListener):
    """The last model call: tokens that ran, and attention and entropy of the rows whose logits were computed.

    Key groups: `"image"` (every visual token), `"text"` (every other token but padding), `"response"` (tokens after
    the prompt, as far as a row sees them: the response so far), `"region"` (of `samples`) and the user's own. For the
    fields see `AttentionCapture`; `config` is the model's, and `options` go to `read_masses`.
    """

    layers: tuple[int, ...]
    config: Any
    options: dict
    samples: Sequence[Mapping] | None
    groups: Mapping[str, torch.Tensor] | None
    maps: bool
    temperature: float
    tokens: torch.Tensor | None = field(default=None, init=False)
    _generating: tuple[torch.Tensor, torch.Tensor | None] | None = field(default=None, init=False)
    _num_generated: int = field(default=0, init=False)

    def generates(self, ids: torch.Tensor | None, mask: torch.Tensor | None) -> None:
        self._generating = None if ids is None else (ids, mask)
        self._starts = True
        self._num_generated += ids is not None

    def before(self, ids: torch.Tensor, past: int, inputs: Mapping[str, Any]) -> None:
        """Note the tokens of this forward and which rows are wanted."""
        if self._generating is not None and self._starts:
            self._start_generating(ids, past, inputs)
        elif self._generating is None and past == 0:
            self._start(Prompt.of(ids, inputs, self.config, self.samples))
        else:
            self._continue(ids, past)
        self.has_room = getattr(inputs.get("past_key_values"), "is_compileable", False)
        keep = inputs.get("logits_to_keep", 0)
        self.num_rows = ids.shape[1]
        rows = torch.arange(ids.shape[1])
        self.rows = rows[keep.cpu()] if isinstance(keep, torch.Tensor) else rows[-keep:] if keep else rows
        self.positions.append(self.rows + past)

    def _start_generating(self, ids: torch.Tensor, past: int, inputs: Mapping[str, Any]) -> None:
        """The first forward of `generate`: of the prompt, a piece of it, what a cache left of it, or with a draft."""
        prompt, mask = (
            x if x is None else torch.stack(per_row(list(x), len(ids), "prompts")).to(ids.device)
            for x in self._generating
        )
        here = prompt[:, past : past + ids.shape[1]]
        if here.shape[1] == 0 or not torch.equal(here, ids[:, : here.shape[1]]):
            raise AttentionNotCaptured(
                "The cache holds tokens that the capture has not seen: give `generate` the whole prompt, those tokens "
                "included."
            )
        inputs = inputs if mask is None else {**inputs, "attention_mask": mask}
        self._start(Prompt.of(prompt, inputs, self.config, self.samples))
        self.tokens, self.is_generated, self._starts = torch.cat([prompt[:, :past], ids], dim=1), True, False

    def _continue(self, ids: torch.Tensor, past: int) -> None:
        """A later forward of `generate`, or of a loop with a cache."""
        before = self.tokens
        if before is None or len(before) != len(ids) or before.shape[1] < past:
            raise AttentionNotCaptured(
                "The cache holds tokens that the capture has not seen: open it before the prompt is run."
            )
        if past == 0 and not torch.equal(ids[:, : self.prompt_length], before[:, : self.prompt_length]):
            raise AttentionNotCaptured(
                "Another forward than that of the prompts ran inside `generate` (classifier-free guidance): generate "
                "with guidance_scale=1, or read one forward over the returned sequences."
            )
        if self._generating is None and is_visual(ids, self.config).any():
            raise AttentionNotCaptured(
                "Visual tokens came after the prompt, on top of a cache: run the whole conversation in one forward, "
                "or let `generate` run it."
            )
        self.tokens = torch.cat([before[:, :past], ids], dim=1)

    def _start(self, prompt: Prompt) -> None:
        self.tokens, self.prompt_length = prompt.ids, prompt.ids.shape[1]
        self.attention_mask, self.image_index = prompt.real, prompt.image_index
        groups = {"image": prompt.image.float()}
        if self.samples is not None:
            groups["region"] = prompt.region
        groups["text"] = (prompt.real & ~prompt.image).float()
        groups["response"] = torch.zeros_like(groups["image"])
        for name, weights in (self.groups or {}).items():
            rows = torch.stack(per_row(list(weights), len(prompt.ids), f"rows of group {name!r}"))
            if rows.shape != prompt.ids.shape:
                raise ValueError(
                    f"Group {name!r} has weights for {tuple(rows.shape)} (sequences, prompt tokens), but the prompts "
                    f"are {tuple(prompt.ids.shape)}: give one weight per token of the padded prompts."
                )
            groups[name] = rows.float().to(prompt.ids.device)
        self.names = tuple(groups)
        self.weights = torch.stack(list(groups.values()), dim=-1)
        self.later = torch.tensor([float(name in LATER) for name in self.names], device=prompt.ids.device)
        self.positions: list[torch.Tensor] = []
        self._masses: dict[int, list[torch.Tensor]] = {layer: [] for layer in self.layers}
        self._maps: dict[int, list[torch.Tensor]] = {layer: [] for layer in self.layers}
        self.entropies: list[torch.Tensor] = []
        self.is_generated = False

    def read(self, layer: int, module: nn.Module, query, key, attention_mask, kernel: str, **kwargs) -> None:
        if is_recomputation():
            return
        if layer in self.seen:
            raise AttentionNotCaptured(
                f"Layer {layer} calls its kernel several times in one forward: its attention is a difference of "
                "several (DiffLlama), which sayo does not read."
            )
        shift = key.shape[2] - self.tokens.shape[1]  # sliding caches drop old keys, static ones have room for new
        if shift > 0 and not self.has_room:
            raise AttentionNotCaptured(
                f"Layer {layer} attends over {key.shape[2]} keys, but {self.tokens.shape[1]} tokens ran: the model "
                "adds keys of its own, and which are visual is unknown. Use `capture.reading(...)` with key groups "
                "over all keys."
            )
        later = max(0, self.tokens.shape[1] - self.prompt_length)
        weights = torch.cat([self.weights, self.later.expand(len(self.tokens), later, -1)], dim=1)
        weights = weights[:, : self.tokens.shape[1]]  # of a prompt that runs in pieces, what has run
        weights = weights[:, -shift:] if shift < 0 else nn.functional.pad(weights, (0, 0, 0, shift))
        index = self.image_index + min(shift, 0) if self.maps else None
        rows = self.rows - self.num_rows + query.shape[2]
        with torch.no_grad():
            masses, maps = read_layer(
                module, query, key, attention_mask, kernel, rows, weights, index, options=self.options, **kwargs
            )
        self._masses[layer].append(masses)
        if maps is not None:
            self._maps[layer].append(maps)
        self.seen.add(layer)

    @torch.no_grad()
    def after(self, output: Mapping[str, Any]) -> None:
        """Keep the entropies of the rows, in nats."""
        logits = output.get("logits") if isinstance(output, Mapping) else None
        if logits is None:
            raise AttentionNotCaptured(
                "The model returned no `logits` by name, which the entropies are made of: load it with its head "
                "(AutoModelForImageTextToText) and leave return_dict=True, or use `capture.reading(...)`."
            )
        logits = logits[:, -len(self.rows) :]
        blocks = logits.split(max(1, self.options["byte_budget"] // (4 * logits.shape[0] * logits.shape[2])), dim=1)
        entropies = [
            Categorical(logits=block.float() / self.temperature, validate_args=False).entropy() for block in blocks
        ]
        self.entropies.append(torch.cat(entropies, dim=1))

    def check(self) -> None:
        """Raise if no model call was seen."""
        if self.tokens is None:
            raise AttentionNotCaptured(
                "No model call was seen: run the model that the capture was made with inside the `with` block."
            )

    def traces(
        self, output: Any, prompt_length: int | None, eos_token_id: int | Sequence[int] | None
    ) -> list[AttentionTrace]:
        """See `AttentionCapture.trace`."""
        self.check()
        if output is None:
            sequences = self.tokens
            if prompt_length is None or not 0 < prompt_length <= sequences.shape[1]:
                raise ValueError(
                    "Say where the completions start: trace(prompt_length=inputs['input_ids'].shape[1]) after a "
                    "forward over prompts + completions, or trace(output) after generate."
                )
            real = nn.functional.pad(self.attention_mask, (0, sequences.shape[1] - self.prompt_length), value=True)
            lengths = real[:, prompt_length:].sum(dim=1).tolist()
        else:
            sequences = output if isinstance(output, torch.Tensor) else _sequences(output)
            prompt_length = self._generate_prompt_length(sequences, prompt_length)
            lengths = _lengths(sequences[:, prompt_length:], eos_token_id)
        extra = 1 if output is None else 0  # generate never runs the last token's own row
        where = self._places(torch.arange(prompt_length - 1, sequences.shape[1] - 1 + extra))
        masses, maps = self._gather(self._masses, where), self._gather(self._maps, where) if self.maps else None
        entropies = torch.cat(self.entropies, dim=1)[:, where].float().cpu().numpy()
        traces = []
        for row, length in enumerate(lengths):
            rows = slice(0, length + extra)
            num_later = sequences.shape[1] - self.prompt_length if output is None else length
            sizes = self.weights[row].sum(dim=0) + self.later * num_later
            present = [index for index, size in enumerate(sizes.tolist()) if size > 0]
            num_visual = int(self.weights[row, :, 0].sum())
            traces.append(
                AttentionTrace(
                    masses={self.names[index]: masses[row, :, rows, index] for index in present},
                    sizes={self.names[index]: float(sizes[index]) for index in present},
                    entropy=entropies[row, :length],
                    layers=self.layers,
                    maps=None if maps is None else maps[row, :, rows, :num_visual],
                )
            )
        return traces

    def _generate_prompt_length(self, sequences: torch.Tensor, prompt_length: int | None) -> int:
        if prompt_length is None and not self.is_generated:
            raise AttentionNotCaptured(
                "These sequences were not made by `generate` inside the capture, so where their completions start is "
                "unknown: trace(output, prompt_length=inputs['input_ids'].shape[1])."
            )
        seen = self.tokens[:, : sequences.shape[1] - 1]
        if seen.shape[0] != sequences.shape[0] or not torch.equal(seen, sequences[:, : seen.shape[1]].to(seen.device)):
            if self._num_generated > 1:
                raise AttentionNotCaptured(
                    "A capture holds the last call only, and `generate` ran again after these tokens: ask for the "
                    "trace before the next call, or open one capture for each."
                )
            raise AttentionNotCaptured(
                "The tokens that ran are not those that generate returned: beam search and other strategies move "
                "sequences between rows. Use greedy search or sampling (num_beams=1), or run one forward over the "
                "returned sequences inside the capture."
            )
        return prompt_length or self.prompt_length

    def _places(self, wanted: torch.Tensor) -> torch.Tensor:
        """Where each wanted position lies in the rows read so far (the last time it ran)."""
        place = {position: index for index, position in enumerate(torch.cat(self.positions).tolist())}
        missing = [position for position in wanted.tolist() if position not in place]
        if missing:
            raise AttentionNotCaptured(
                f"Rows {missing[:5]} were not read: with logits_to_keep, keep those of the whole completion and of "
                "the last prompt token; after generate, hand its output to trace()."
            )
        return torch.tensor([place[position] for position in wanted.tolist()])

    def _gather(self, parts: Mapping[int, list[torch.Tensor]], where: torch.Tensor):
        """`(B, L, R, ...)` float32 numpy array of the wanted rows."""
        layers = [torch.cat(parts[layer], dim=1)[:, where] for layer in self.layers]
        return torch.stack(layers, dim=1).float().cpu().numpy()


def _sequences(output: Any) -> torch.Tensor:
    if isinstance(output, Mapping) and "sequences" in output:
        return output["sequences"]
    if isinstance(output, Mapping) and "logits" in output:
        raise AttentionNotCaptured(
            "This is the output of a plain forward: trace(prompt_length=inputs['input_ids'].shape[1]), without it."
        )
    raise AttentionNotCaptured(
        "trace() takes what `generate` returned: token ids, or with return_dict_in_generate=True an output with "
        "`sequences`. `generate_batch` packs its prompts into one row, which sayo does not read: use `generate`."
    )


def _lengths(completions: torch.Tensor, eos_token_id: int | Sequence[int] | None) -> list[int]:
    """Number of tokens of each completion, the first end of sequence included."""
    if eos_token_id is None:
        return [completions.shape[1]] * len(completions)
    ends = torch.isin(completions, torch.as_tensor(eos_token_id, device=completions.device))
    return (ends.cumsum(dim=1) - ends.long() == 0).sum(dim=1).tolist()
