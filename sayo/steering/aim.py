"""VRGA's steering: heads that look at the region in question look at it more in every response token's row."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from sayo.attention.captured import read_layer
from sayo.attention.following import Prompt, per_row
from sayo.attention.layers import LayerSpec
from sayo.attention.masks import check_takes_bias, kernel_mask, with_bias
from sayo.geometry import VisualCells
from sayo.metrics import vrga
from sayo.steering.calls import Steering, template_tail
from sayo.steering.grids import TokenGrid, grids_of_cells, grids_of_positions


class AttentionSteering(Steering):
    """Visual region-guided attention (VRGA) while the body generates: training-free, per sample, batched.

    The row of the last question token, read in every layer and head, gives the visual heads H_v (low entropy-focus
    ratio, high focus); their mean map minus that of early heads that ignore the image gives the tokens T_q that the
    question is about. In every row after the prompt, the attention of the chosen heads on T_q is multiplied by
    `1 + gamma` and the row renormalised, exactly, by a bias of `log(1 + gamma)` in the kernel's mask. The prompt's
    rows do not change.

    Source: "Deeper Thought, Weaker Aim" (arXiv 2603.14184) and its public release, with these corrections: the query
    row is the last question token's, `<|vision_start|>` is not a visual token, neighbourhoods are two-dimensional and
    end at the image's edge, every sample of a batch has its own images and heads, and state ends with the call.

    Args:
        model: any transformers vision-language model, wrapped or not, with the sdpa or the eager kernel.
        processor: its chat template determines the last question token. None: the last token of the prompt.
        gamma: boost of T_q; 0 is bit-identical to no steering.
        variant: `"boost"`, or `"hard"` (the release's second variant): steered heads see no visual tokens except T_q,
            which is then what the focused heads look at more than twice as much as on average. A sample without such
            tokens is not steered.
        heads: `"visual"`, the heads of H_v (the paper); `"gated"`, all heads that look at the image enough in the
            current row (the release).
        cells: per prompt, the cells of each image (`VisualLayout.cells`). Required unless the model has M-RoPE
            positions (Qwen, GLM).
        background_weight: the paper's lambda.
        deviations: the paper's tau, in standard deviations above the mean of the map.
        radius: number of cells by which T_q is dilated; by default the release's 2 (3 if hard); 0 in the paper.
        border_share: at most this share of each view's tokens is excluded as a border of attention sinks.
        layers: decoder layers to read and steer; see `AttentionCapture`.
        suffix: text under the question of every prompt ("Answer in one word."), which is not part of the question.

    Raises:
        ValueError: unknown option, or a kernel without an additive bias; while running, a prompt that does not end
            like the chat template, or cells that do not fit the visual tokens.

    Example:
        >>> with AttentionSteering(model, processor):
        ...     output = model.generate(**inputs, max_new_tokens=256)
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any = None,
        *,
        gamma: float = 0.5,
        variant: Literal["boost", "hard"] = "boost",
        heads: Literal["visual", "gated"] = "visual",
        cells: Sequence[Sequence[VisualCells]] | None = None,
        background_weight: float = 1.0,
        deviations: float = 0.6,
        radius: int | None = None,
        border_share: float = 0.2,
        layers: LayerSpec = "all",
        suffix: str = "",
    ):
        if variant not in ("boost", "hard") or heads not in ("visual", "gated"):
            raise ValueError(f"variant is 'boost' or 'hard', heads 'visual' or 'gated'; got {variant!r}, {heads!r}")
        if gamma <= -1:
            raise ValueError(f"gamma must be above -1, got {gamma}")
        super().__init__(model, layers, template_tail(processor, suffix) if processor is not None else ())
        self.gamma, self.variant, self.heads, self.cells = gamma, variant, heads, cells
        self.background_weight, self.deviations, self.border_share = background_weight, deviations, border_share
        self.radius = radius if radius is not None else (2 if variant == "boost" else 3)

    def __enter__(self):
        check_takes_bias(self._inner.config.get_text_config()._attn_implementation)
        return super().__enter__()

    def _start(self, prompt: Prompt) -> None:
        if not prompt.real[:, -1].all():
            raise ValueError("The prompts are padded on the right: pad them on the left, as generation requires.")
        self._has_images = bool(prompt.image.any())
        self._question_row = prompt.ids.shape[1] - 1 - len(self._tail)
        self._grids = self._find_grids(prompt)

    def _forget(self) -> None:
        super()._forget()
        self._maps: dict[int, torch.Tensor] = {}  # layer -> (B, H, N) of the question's last row
        self._num_keys: dict[int, torch.Tensor] = {}  # layer -> (B,)
        self._chosen: tuple[torch.Tensor, torch.Tensor] | None = None
        self._grids: list[list[TokenGrid]] = []

    def adjust(self, layer: int, module: nn.Module, query, key, attention_mask, kernel: str, **kwargs) -> tuple:
        self.seen.add(layer)
        unchanged = query, key, attention_mask
        if (self.gamma == 0 and self.variant == "boost") or not self._has_images:
            return unchanged
        call = (module, query, key, attention_mask, kernel)
        later = (self._positions >= self._prompt.ids.shape[1]).nonzero()[:, 0]
        if len(later) == 0:
            row = (self._positions == self._question_row).nonzero()[:, 0]
            if len(row):
                maps, num_keys = self._read(row, *call, **kwargs)
                self._maps[layer], self._num_keys[layer] = maps[:, :, 0], num_keys[:, 0]
            return unchanged
        tokens, heads = self._choice()
        gate = heads[:, self.layers.index(layer), :, None].expand(-1, -1, len(later))
        if self.heads == "gated":
            gate = gate & self._gate(*self._read(later, *call, **kwargs))
        bias = query.new_zeros(*query.shape[:3], key.shape[2])
        bias[:, :, later] = gate[..., None] * self._on_keys(self._key_bias(tokens), key.shape[2])[:, None, None]
        mask = kernel_mask(module, query, key, attention_mask, kernel, kwargs)
        return query, key, with_bias(mask, bias.to(query.dtype))

    def _read(self, rows, module, query, key, attention_mask, kernel, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """`(B, H, r, N)` attention of some rows on the visual tokens (0 on padding), and `(B, r)` visible keys."""
        image = self._on_keys(self._prompt.image.float(), key.shape[2])
        shift = key.shape[2] - int(self._positions[-1]) - 1
        index = self._prompt.image_index + min(shift, 0)
        groups, options = image[..., None], {"per_head": True}
        _, maps = read_layer(
            module, query, key, attention_mask, kernel, rows, groups, index, options=options, **kwargs
        )
        filled = torch.arange(index.shape[1], device=index.device) < self._prompt.image.sum(dim=1, keepdim=True)
        mask = kernel_mask(module, query, key, attention_mask, kernel, kwargs)
        num_keys = torch.stack([mask.count(sample, rows, query.device) for sample in range(len(query))])
        return maps * filled[:, None, None], num_keys

    def _gate(self, maps: torch.Tensor, num_keys: torch.Tensor) -> torch.Tensor:
        """`(B, H, r)` bool: the release's gate, `vrga.steering_gate`, of each head and row."""
        size = self._prompt.image.sum(dim=1).clamp(min=1)[:, None, None]
        focus = maps.sum(dim=-1) / size * num_keys[:, None]
        entropy = -(maps * torch.log(maps + 1e-8)).sum(dim=-1)
        return vrga.steering_gate(focus, entropy)

    def _key_bias(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(B, P)` bias of the steered heads' scores; `tokens` `(B, P)` bool is T_q."""
        if self.variant == "boost":
            return tokens.float() * math.log1p(self.gamma)
        others = self._prompt.image & ~tokens & tokens.any(dim=1, keepdim=True)
        return others.float() * torch.finfo(self._inner.dtype).min

    # The choice of tokens and heads

    def _choice(self) -> tuple[torch.Tensor, torch.Tensor]:
        """T_q, `(B, P)` bool, and the steered heads, `(B, L, H)` bool; chosen once per call."""
        if self._chosen is None:
            maps = torch.stack([self._maps[layer] for layer in self.layers], dim=1).float().cpu().numpy()
            num_keys = torch.stack([self._num_keys[layer] for layer in self.layers], dim=1).cpu().numpy()
            tokens, heads = torch.zeros_like(self._prompt.image), torch.zeros(maps.shape[:3], dtype=torch.bool)
            for row, grids in enumerate(self._grids):
                size = int(self._prompt.image[row].sum())
                if size == 0:
                    continue
                picked, steered = self._choose(maps[row, ..., :size], num_keys[row, :, None], grids)
                tokens[row, self._prompt.image_index[row, :size]] = torch.from_numpy(picked).to(tokens.device)
                heads[row] = torch.from_numpy(steered) if picked.any() else False
            self._chosen = tokens, heads.to(tokens.device)
        return self._chosen

    def _choose(
        self, maps: np.ndarray, num_keys: np.ndarray, grids: Sequence[TokenGrid]
    ) -> tuple[np.ndarray, np.ndarray]:
        """T_q `(N,)` bool and heads `(L, H)` bool of one sample; `maps` `(L, H, N)` are the last question token's."""
        num_visual = maps.shape[-1]
        focus = vrga.image_focus(maps.sum(axis=-1), num_visual, num_keys)
        nothing = np.zeros(num_visual, dtype=bool)
        if self.variant == "hard":
            raw_entropy = vrga.image_entropy(maps, normalize=False)
            heads = vrga.steering_gate(focus, raw_entropy, entropy_factor=0.3)
            reference = maps[heads].mean(axis=0) if heads.any() else nothing
            tokens = np.flatnonzero(reference > 2 * reference.mean())
        else:
            heads = vrga.visual_heads(focus, vrga.entropy_focus_ratio(vrga.image_entropy(maps), focus))
            visual, background = maps[heads].mean(axis=0), vrga.background_heads(focus)
            background = maps[background].mean(axis=0) if background.any() else nothing
            if not visual.sum() > 0:
                return nothing, heads
            reference = vrga.subtract_background(visual, background, self.background_weight)
            border = np.ones(num_visual, dtype=bool)  # separators, which are in no grid, count as border
            for grid in grids:
                border[grid.tokens] = grid.border(self.border_share)
            tokens = vrga.focus_tokens(reference, border, self.deviations)
        chosen = np.isin(np.arange(num_visual), tokens)
        near = np.zeros(num_visual, dtype=bool)
        for grid in grids:
            near[grid.tokens] = grid.grown(chosen, self.radius)
        return near, heads if self.heads == "visual" else np.ones_like(heads)

    def _find_grids(self, prompt: Prompt) -> list[list[TokenGrid]]:
        counts = prompt.image.sum(dim=1).tolist()
        if self.cells is not None:
            cells = per_row(list(self.cells), len(prompt.ids), "lists of cells")
            if (given := [sum(map(len, images)) for images in cells]) != counts:
                raise ValueError(f"The prompts hold {counts} visual tokens, but their cells are {given}.")
            return [grids_of_cells(images) for images in cells]
        positions = prompt.inputs.get("position_ids")
        if not any(counts):
            return [[] for _ in counts]
        if positions is None or positions.dim() != 3:
            raise ValueError(
                "This model has no M-RoPE positions: pass cells=[[layout.cells(*image.size) for image in "
                "row['images']] for row in rows] with layout = VisualLayout.from_processor(processor, model.config)."
            )
        grids = []
        for row, image in enumerate(prompt.image):
            tokens = image.nonzero()[:, 0]
            grids.append(grids_of_positions(positions[-2:, row, tokens].cpu().numpy(), tokens.cpu().numpy()))
        return grids
