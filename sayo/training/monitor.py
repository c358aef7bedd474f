"""What a run lets its user see of the attention: metrics, an overlay picture every so often, a readable table."""

from collections.abc import Mapping, MutableSequence, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers.integrations import TensorBoardCallback

from sayo.attention import AttentionTrace
from sayo.draw import response_map, save_sheet
from sayo.geometry import VisualLayout
from sayo.metrics.region import pooled_attention, region_ratio, tas
from sayo.metrics.sinks import pooled_sinks, sink_free_attention, sink_free_mass

OVERLAY, MAX_PANELS = "attention/overlay", 4


def attention_metrics(traces: Sequence[AttentionTrace]) -> dict[str, float]:
    """Means over the batch's completions, read at the rows that decide the 30% most uncertain tokens.

    The same rows for every run, whatever its rewards, so that runs can be compared:

    - `attention/coverage`: share of samples with a region.
    - `attention/image_mass`, `attention/region_mass`: attention on all visual tokens, on the region's.
    - `attention/region_ratio`: attention per region token over attention per visual token (1 = no preference).
    - `attention/tas`: SAYO's target attention score of that ratio, in (0, 1); 0.5 = no preference.
    - `attention/weighted_entropy`: next-token entropy in nats, weighted by the attention on the image.

    A metric that no sample of the batch defines is left out, never zero.
    """
    # A sliding-window layer may see no image at all: then its ratios are undefined, not zero.
    seeing = [trace for trace in traces if len(trace) and _image_mass(trace).sum() > 0]
    aimed = [pooled_attention(trace, "deciding") for trace in seeing if trace.has_region]
    metrics = {
        "attention/coverage": [float(trace.has_region) for trace in traces],
        "attention/image_mass": [_image_mass(trace).mean() for trace in seeing],
        "attention/region_mass": [pooled.region_mass for pooled in aimed],
        "attention/region_ratio": [region_ratio(pooled.region, pooled.image) for pooled in aimed],
        "attention/tas": [tas(pooled.region, pooled.image) for pooled in aimed],
        "attention/weighted_entropy": [np.average(trace.entropy, weights=_image_mass(trace)) for trace in seeing],
    }
    return _means(metrics)


def sink_free_metrics(traces: Sequence[AttentionTrace], samples: Sequence[Mapping]) -> dict[str, float]:
    """`attention/{image_mass,region_mass,tas}_sink_free`: the same without the image's attention sinks.

    Moving attention to a cell that every row attends to anyway raises the raw masses, but not these. The sinks are 2%
    of the visual tokens, see `metrics.sinks.pooled_sinks`. Traces without maps are left out; the samples, one per
    trace, have `region_tokens` and `region_weights`.
    """
    sinks = pooled_sinks(traces)
    images, aimed = [], []
    for trace, sample in zip(traces, samples, strict=True):
        if trace.maps is None or not len(trace) or not _image_mass(trace).sum() > 0:
            continue
        is_sink = sinks[trace.maps.shape[-1]]
        images.append(sink_free_mass(trace.map("deciding").mean(axis=0), is_sink).mean())
        if trace.has_region:
            region = np.zeros(len(is_sink))
            region[sample["region_tokens"]] = sample["region_weights"]
            aimed.append(sink_free_attention(trace, is_sink, region, "deciding"))
    aimed = [pooled for pooled in aimed if pooled is not None]
    return _means(
        {
            "attention/image_mass_sink_free": images,
            "attention/region_mass_sink_free": [pooled.region_mass for pooled in aimed],
            "attention/tas_sink_free": [tas(pooled.region, pooled.image) for pooled in aimed],
        }
    )


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(np.mean(value)) for name, value in values.items() if value}


def _image_mass(trace: AttentionTrace) -> np.ndarray:
    """`(T,)`: attention on the image, mean over layers; zeros for a prompt without an image."""
    if "image" not in trace.masses:
        return np.zeros(len(trace))
    return trace.mass("image", "deciding").mean(axis=0)


def save_overlay(
    trainer: Any, samples: Sequence[Mapping], completions: Sequence[Any], traces: Sequence[AttentionTrace]
) -> None:
    """Write a picture of the attention over the image, one completion of each of a few prompts, and send it.

    Samples without a region, with several images or without any response are left out; no file where nothing is left.
    """
    panels: dict[str, dict] = {}
    for sample, completion, trace in zip(samples, completions, traces, strict=True):
        images = sample.get("images") or []
        prompt = sample.get("question") or str(sample["prompt"][-1]["content"])
        if len(images) != 1 or not trace.has_region or not len(trace) or prompt in panels:
            continue
        layout = VisualLayout.from_processor(trainer.processing_class, trainer.model.config)
        ratio = attention_metrics([trace]).get("attention/region_ratio", float("nan"))
        panels[prompt] = {
            "image": images[0],
            "cells": layout.cells(*images[0].size),
            "map": response_map(trace),
            "regions": sample.get("regions") or [],
            "question": prompt,
            "completion": completion if isinstance(completion, str) else completion[0]["content"],
            "caption": f"region ratio {ratio:.2f}",
        }
    if panels:
        step = trainer.state.global_step
        path = Path(trainer.args.output_dir, "overlays", f"overlay_{step:05d}.png")
        title = f"attention over the image at step {step} (green: answer, orange: evidence)"
        save_sheet(list(panels.values())[:MAX_PANELS], path, title=title)
        _send_overlay(trainer, path)


def _send_overlay(trainer: Any, path: Path) -> None:
    """Send the picture to the trackers that show pictures (tensorboard's writer belongs to a callback)."""
    step, trackers = trainer.state.global_step, trainer.args.report_to or []
    if "wandb" in trackers:
        import wandb

        if wandb.run is not None:
            wandb.log({OVERLAY: wandb.Image(str(path)), "train/global_step": step})
    if "trackio" in trackers:
        import trackio

        trackio.log({OVERLAY: trackio.Image(path)}, step=step)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            callback.tb_writer.add_image(OVERLAY, pixels, step, dataformats="HWC")


def plain_prompts(prompts: MutableSequence[Any]) -> None:
    """Turn multimodal messages into messages of text, in place: `<image>` stands where a picture was.

    TRL hands the messages to the tracker with their content as a list of `{"type": "image"}` and `{"type": "text",
    "text": ...}`. A `wandb.Table` refuses a list of mappings with different keys, and the run dies at its first log.
    """

    def text(content: Any) -> Any:
        if not isinstance(content, list):
            return content
        return "".join(block["text"] if block["type"] == "text" else f"<{block['type']}>" for block in content)

    for index, messages in enumerate(prompts):
        if isinstance(messages, list):
            prompts[index] = [{**message, "content": text(message["content"])} for message in messages]
