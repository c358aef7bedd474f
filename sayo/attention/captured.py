"""What one pass over a batch yields: attention masses per key group, layer by layer."""

from dataclasses import dataclass

import torch
from torch import nn

from sayo.attention.kernel import AttentionNotCaptured, Listener
from sayo.attention.masks import kernel_mask
from sayo.attention.read import read_masses


def read_layer(
    module: nn.Module, query, key, attention_mask, kernel: str, rows, weights, image_index=None, *, options, **kwargs
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`read_masses` of what a kernel received: `kwargs` are the kernel's own keyword arguments."""
    if rows.numel() and int(rows.min()) < 0:
        raise AttentionNotCaptured(
            f"{type(module).__name__} computes only the last {query.shape[2]} rows (Gemma 4 cuts the layers that "
            "share keys to `logits_to_keep`): read no earlier rows, run the model without logits_to_keep, or read "
            "other layers."
        )
    sinks = kwargs.get("sinks") if kwargs.get("s_aux") is None else kwargs["s_aux"]
    mask = kernel_mask(module, query, key, attention_mask, kernel, kwargs)
    with torch.autocast(query.device.type, enabled=False):  # it would round the scores
        options = {"scaling": kwargs.get("scaling"), "softcap": kwargs.get("softcap"), **options}
        return read_masses(query, key, rows, weights, mask, sinks=sinks, image_index=image_index, **options)


def is_recomputation() -> bool:
    """Whether this forward is gradient checkpointing's own, inside a backward pass."""
    return torch._C._current_graph_task_id() != -1


def no_kernel_call(layer: int, kernel: str) -> AttentionNotCaptured:
    """The error of a layer that ran without its kernel being seen."""
    return AttentionNotCaptured(
        f"Layer {layer} ran, but its kernel ({kernel!r}) bypasses transformers' AttentionInterface (remote code, a "
        "patched forward or a compiled graph): load the model with attn_implementation='sdpa', without "
        "torch.compile and without kernel patches of its attention."
    )


@dataclass(eq=False)
class CapturedMasses(Listener):
    """Head-averaged masses per key group for chosen rows; filled while the model runs.

    A batch may pass in several consecutive chunks (as TRL's scoring pass does). Forwards that gradient checkpointing
    repeats during the backward pass are no chunks. For the arguments see `AttentionCapture.reading`; `options` are
    `per_head` and `byte_budget` of `read_masses`.
    """

    layers: tuple[int, ...]
    rows: slice | torch.Tensor
    groups: dict[str, torch.Tensor]
    image_index: torch.Tensor | None
    gradients: bool
    options: dict

    def __post_init__(self):
        if not self.groups:
            raise ValueError("Name at least one key group, e.g. groups={'image': input_ids == image_token_id}.")
        self.weights = torch.stack([weight.float() for weight in self.groups.values()], dim=-1)
        is_slice = isinstance(self.rows, slice)
        self.rows = torch.arange(self.weights.shape[1])[self.rows] if is_slice else self.rows.cpu()
        self._ran: set[int] = set()
        self._masses: dict[int, list[torch.Tensor]] = {layer: [] for layer in self.layers}
        self._maps: dict[int, list[torch.Tensor]] = {layer: [] for layer in self.layers}

    @property
    def masses(self) -> dict[str, torch.Tensor]:
        """Key group -> `(B, L, R)` float32 (`(B, L, H, R)` per head) attention mass."""
        stacked = torch.stack([torch.cat(self._masses[layer]) for layer in self.layers], dim=1)
        return {name: stacked[..., index] for index, name in enumerate(self.groups)}

    @property
    def maps(self) -> torch.Tensor | None:
        """`(B, L, R, N)` (`(B, L, H, R, N)`) attention on each key of `image_index`; None when it was not asked for.

        Where a sample has fewer keys than the longest, the padded columns mean nothing.
        """
        if self.image_index is None:
            return None
        return torch.stack([torch.cat(self._maps[layer]) for layer in self.layers], dim=1)

    def ran(self, layer: int) -> None:
        self._ran.add(layer)

    def read(self, layer: int, module: nn.Module, query, key, attention_mask, kernel: str, **kwargs) -> None:
        runs_again = is_recomputation()
        if runs_again and not self.gradients:
            return
        if self.gradients and not torch.is_grad_enabled():
            raise AttentionNotCaptured(
                f"gradients=True, but layer {layer} runs without a graph: leave torch.no_grad(), and if gradient "
                "checkpointing is on, use gradient_checkpointing_kwargs={'use_reentrant': False}."
            )
        if runs_again and len(self._masses[layer]) > 1:
            raise AttentionNotCaptured(
                "gradients=True with gradient checkpointing needs the batch in one piece: open one capture per piece."
            )
        start = 0 if runs_again else sum(len(chunk) for chunk in self._masses[layer])
        if start >= len(self.weights):
            raise AttentionNotCaptured(
                f"Layer {layer} calls its kernel again after the whole batch was read: open one capture per pass. If "
                "this was one pass, its attention is a difference of several (DiffLlama), which sayo does not read."
            )
        batch = slice(start, start + query.shape[0])
        weights = self.weights[batch]
        if weights.shape[0] != query.shape[0] or weights.shape[1] != key.shape[2]:
            raise AttentionNotCaptured(
                f"Layer {layer} attends over {tuple(key.shape[:3:2])} (samples, keys), but the key groups describe "
                f"{tuple(weights.shape[:2])}: pass groups of the whole sequence, and one capture per pass."
            )
        rows = (self.rows if self.rows.dim() == 1 else self.rows[batch]) - key.shape[2] + query.shape[2]
        index = None if self.image_index is None else self.image_index[batch]
        with torch.set_grad_enabled(self.gradients):
            masses, maps = read_layer(
                module, query, key, attention_mask, kernel, rows, weights, index, options=self.options, **kwargs
            )
        if runs_again:  # only the graph of this call was wanted
            return
        self._masses[layer].append(masses)
        if maps is not None:
            self._maps[layer].append(maps)

    def check(self, kernel: str) -> None:
        """Raise unless every layer was read for the whole batch: what was not captured must never look like a zero."""
        for layer in self.layers:
            seen = sum(len(chunk) for chunk in self._masses[layer])
            if seen == len(self.weights):
                continue
            if seen == 0 and layer in self._ran:
                raise no_kernel_call(layer, kernel)
            raise AttentionNotCaptured(
                f"Attention of layer {layer} was read for {seen} of {len(self.weights)} samples: run the model that "
                "the capture was made with inside the `with` block, over the whole batch."
            )
