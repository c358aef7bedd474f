"""The report of a run where its curves are: in the tracker."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from sayo.report.page import build_report


def send_report(trainer: Any) -> Path | None:
    """Write `report.html` into the folder of a run that has trained, and log the same file to wandb.

    Does nothing on ranks but the main one, and where wandb is not on (`trainer.report_to`): `sayo report` writes
    the page at any time. (tensorboard shows no pages; transformers closes trackio before the run's state is saved.)

    Args:
        trainer: after `save_state`, whose `trainer_state.json` the curves are read from.

    Returns:
        The page, or None. A page that cannot be made is a warning: the run has trained and is saved.
    """
    if "wandb" not in (trainer.args.report_to or []) or not trainer.accelerator.is_main_process:
        return None
    import wandb

    if wandb.run is None:
        return None
    run = Path(trainer.args.output_dir)
    try:
        path = build_report([run], run / "report.html")
        # inject=False: what wandb shows is the file as it is.
        wandb.log({"report": wandb.Html(str(path), inject=False), "train/global_step": trainer.state.global_step})
    except Exception as error:
        warnings.warn(f"no report in wandb ({error}); `sayo report {run}` writes it", stacklevel=2)
        return None
    return path
