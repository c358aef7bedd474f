"""From a padded batch to key groups, and from captured masses back to one trace per completion."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sayo.attention.captured import AttentionNotCaptured, CapturedMasses
from sayo.attention.trace import AttentionTrace
from sayo.geometry import VisualLayout

VISION_TOKEN_KEYS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def vision_token_ids(config: Any) -> list[int]:
    """Ids that must never be sampled: each would be taken for (the border of) an image that is not there."""
    ids = (getattr(config, key, None) for key in VISION_TOKEN_KEYS)
    return sorted({token_id for token_id in ids if token_id is not None})


def is_visual(input_ids: torch.Tensor, config: Any) -> torch.Tensor:
    """Where the ids stand for visual tokens, of pictures and of videos; nowhere for a text model."""
    ids = [getattr(config, key, None) for key in ("image_token_id", "video_token_id")]
    ids = [token_id for token_id in ids if token_id is not None]
    return torch.isin(input_ids, torch.tensor(ids, dtype=input_ids.dtype, device=input_ids.device))


def key_groups(
    input_ids: torch.Tensor, completion_length: int, samples: Sequence[Mapping], config: Any
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Key groups of a batch of padded prompts and completions.

    Positions are found per row by id, so left padding and several images need no care. Only the prompt is searched:
    a vision id in a completion would be no image.

    Args:
        input_ids: `(B, S)` int64, prompts (left-padded) followed by `completion_length` completion positions.
        samples: one mapping per row with `region_tokens` and `region_weights` (indices among the sample's visual
            tokens, and their coverage), `num_visual_tokens` (per image), `images` (pictures) and `image_sizes` (W, H
            of each, as prepared); each may be absent or None.
        config: the model's, which names the ids of visual tokens.

    Returns:
        groups `{"image", "region"}`, each `(B, S)` float32; and `(B, N)` int64 positions of the visual tokens,
        padded with 0 where a sample has fewer than the longest.

    Raises:
        AttentionNotCaptured: a prompt holds another number of visual tokens, or a row other images, than prepared.
    """
    image = is_visual(input_ids, config)
    image[:, input_ids.shape[1] - completion_length :] = False
    counts = image.sum(dim=1).tolist()
    index = torch.zeros(len(counts), max(counts, default=0), dtype=torch.long, device=input_ids.device)
    region = torch.zeros(input_ids.shape, dtype=torch.float32, device=input_ids.device)
    for row, (sample, count) in enumerate(zip(samples, counts, strict=True)):
        positions = image[row].nonzero()[:, 0]
        index[row, :count] = positions
        _check_sizes(sample, row)
        expected = sample.get("num_visual_tokens")
        if expected is not None and sum(expected) != count:
            raise AttentionNotCaptured(
                f"Sample {sample.get('id', row)!r}: the prompt holds {count} visual tokens, but the data were "
                f"prepared for {sum(expected)}. Was the prompt truncated, or the processor's pixel limits changed? "
                "Map the data again with this model's processor (`sayo prepare ... --processor MODEL`)."
            )
        if tokens := sample.get("region_tokens"):
            if max(tokens) >= count:
                raise AttentionNotCaptured(
                    f"Sample {sample.get('id', row)!r}: region token {max(tokens)} lies outside its {count} visual "
                    "tokens. Map the data again with this model's processor."
                )
            weights = torch.tensor(sample["region_weights"], dtype=torch.float32, device=region.device)
            region[row, positions[torch.tensor(tokens, device=positions.device)]] = weights
    return {"image": image.float(), "region": region}, index


def _check_sizes(sample: Mapping, row: int) -> None:
    """Images that were swapped or reshaped after preparing may have as many tokens; their regions lie elsewhere."""
    shown = [list(image.size) for image in sample.get("images") or () if hasattr(image, "size")]
    prepared = [list(size) for size in sample.get("image_sizes") or ()]
    if shown and prepared and shown != prepared:
        raise AttentionNotCaptured(
            f"Sample {sample.get('id', row)!r}: its images are {shown} pixels (W, H), but its regions were "
            f"prepared for {prepared}, in this order. Give the images as prepared, or prepare the changed ones."
        )


def check_grids(samples: Sequence[Mapping], grids: torch.Tensor) -> None:
    """AttentionNotCaptured if Qwen's or GLM's `image_grid_thw` `(images, 3)` has other shapes than the rows' images.

    Rows without `image_sizes` or `processor_fingerprint` pass.
    """
    prepared = [
        (sample["processor_fingerprint"], tuple(size), len(sample["image_sizes"]))
        for sample in samples
        if sample.get("processor_fingerprint")
        for size in sample.get("image_sizes") or ()
    ]
    if len(prepared) != len(grids):
        return
    for (fingerprint, size, num_images), (_, height, width) in zip(prepared, grids.tolist(), strict=True):
        columns, rows = VisualLayout.from_fingerprint(fingerprint).cells(*size, num_images).grid
        if columns * height != rows * width:
            raise AttentionNotCaptured(
                f"An image was prepared as {columns} x {rows} visual tokens (from {size[0]} x {size[1]} pixels), but "
                f"the processor made {width} x {height} patches: give it the images of the rows, in their order."
            )


def prefix_weights(image: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """`(B, S)` float32: 1 on the tokens before the first visual token (system turn and template), 0 without an image.

    The denominator of AVAR's VAS where there is no system prompt, and what Look-Back's trend leaves out: attention
    sinks sit there.
    """
    before = (image > 0).cumsum(dim=1) == 0
    return (before & attention_mask.bool() & (image > 0).any(dim=1, keepdim=True)).float()


def completion_traces(
    captured: CapturedMasses,
    groups: Mapping[str, torch.Tensor],
    entropies: torch.Tensor,
    completion_mask: torch.Tensor,
    chosen: torch.Tensor | None = None,
) -> list[AttentionTrace]:
    """One [`AttentionTrace`] per row of the batch. A group without any key in a row has size 0 and no masses there.

    Where `captured` kept heads apart, every head is a layer of the traces: `layers` names each layer `H` times.

    Args:
        captured: rows `P - 1 .. P + T_max - 1` of every sample.
        groups: as given to the capture.
        entropies: `(B, T_max)` nats.
        completion_mask: `(B, T_max)`; its sum is a completion's number of tokens.
        chosen: `(B, T_max)`, 0 on tokens that the policy did not choose; None where it chose all.
    """
    masses = {name: value.float().flatten(1, -2).cpu().numpy() for name, value in captured.masses.items()}
    sizes = {name: value.sum(dim=1).tolist() for name, value in groups.items()}
    num_visual = (groups["image"] > 0).sum(dim=1).tolist()
    entropies = entropies.float().cpu().numpy()
    maps = None if captured.maps is None else captured.maps.float().flatten(1, -3).cpu().numpy()
    num_heads = next(iter(masses.values())).shape[1] // len(captured.layers)  # 1 where they were averaged
    traces = []
    for row, length in enumerate(completion_mask.sum(dim=1).tolist()):
        present = [name for name in masses if sizes[name][row] > 0]
        tokens = None if chosen is None or chosen[row, :length].all() else chosen[row, :length].nonzero()[:, 0].cpu()
        traces.append(
            AttentionTrace(
                masses={name: masses[name][row, :, : length + 1] for name in present},
                sizes={name: size[row] for name, size in sizes.items()},
                entropy=entropies[row, :length] if tokens is None else entropies[row, tokens.numpy()],
                layers=tuple(layer for layer in captured.layers for _ in range(num_heads)),
                maps=None if maps is None else maps[row, :, : length + 1, : num_visual[row]],
                tokens=None if tokens is None else tokens.numpy(),
            )
        )
    return traces
