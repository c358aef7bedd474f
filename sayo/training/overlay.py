"""Every so often, a picture of where the policy looks: the quickest way to see that a run learns the right thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from transformers.integrations import TensorBoardCallback

from sayo.attention import AttentionTrace
from sayo.draw import response_map, save_sheet
from sayo.geometry import VisualLayout
from sayo.training.metrics import attention_metrics

if TYPE_CHECKING:
    from sayo.training.grpo import RegionGRPOTrainer

NAME = "attention/overlay"


def save_overlay(
    trainer: RegionGRPOTrainer, inputs: Sequence[dict], completions: Sequence[Any], traces: Sequence[AttentionTrace]
) -> Path | None:
    """Write `output_dir/overlays/overlay_<step>.png` on the main process, one completion of each of a few prompts.

    Samples without a region, with several images or without any response are left out; None when nothing is left.
    """
    if not trainer.accelerator.is_main_process:
        return None
    layout = VisualLayout.from_processor(trainer.processing_class, trainer.model.config)
    panels, seen = [], set()
    for example, completion, trace in zip(inputs, completions, traces, strict=True):
        images = example.get("images") or []
        prompt = example.get("question") or str(example["prompt"][-1]["content"])
        if len(images) != 1 or not trace.has_region or not len(trace) or prompt in seen:
            continue
        seen.add(prompt)
        metrics = attention_metrics([trace])
        panels.append(
            {
                "image": images[0],
                "cells": layout.cells(*images[0].size),
                "map": response_map(trace),
                "regions": example.get("regions") or [],
                "question": prompt,
                "completion": completion if isinstance(completion, str) else completion[0]["content"],
                "caption": f"target ratio {metrics.get('attention/region_ratio', float('nan')):.2f}",
            }
        )
        if len(panels) == trainer.args.overlay_samples:
            break
    if not panels:
        return None
    step = trainer.state.global_step
    path = Path(trainer.args.output_dir, "overlays", f"overlay_{step:05d}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sheet(panels, path, title=f"attention over the image at step {step} (green: answer, orange: evidence)")
    _send_to_trackers(trainer, path)
    return path


def _send_to_trackers(trainer: RegionGRPOTrainer, path: Path) -> None:
    """Beside TRL's table `completions`, as `attention/overlay` of the same step, where the tracker shows pictures."""
    trackers, step = trainer.args.report_to or [], trainer.state.global_step
    if "wandb" in trackers:
        import wandb

        if wandb.run is not None:
            wandb.log({NAME: wandb.Image(str(path)), "train/global_step": step})
    if "trackio" in trackers:
        import trackio

        trackio.log({NAME: trackio.Image(path)}, step=step)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            callback.tb_writer.add_image(NAME, pixels, step, dataformats="HWC")
