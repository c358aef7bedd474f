"""The report of a run, sent to its tracker when it has ended; needs transformers, which the page itself does not."""

import warnings
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sayo.viz.report.page import build_report


class SendReport(TrainerCallback):
    """Writes `report.html` into the folder of a run that has trained to its end, and logs the same file to wandb.

    Does nothing on ranks but the main one, and where wandb is not on (`trainer.report_to`): `sayo report` writes the
    page at any time. (tensorboard shows no pages; transformers closes trackio before.) A page that cannot be made is a
    warning: the run has trained and is saved.
    """

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer, which has not saved its state yet: the log is saved here."""
        is_done = state.global_step >= state.max_steps
        if "wandb" not in (args.report_to or []) or not state.is_world_process_zero or not is_done:
            return
        import wandb

        if wandb.run is None:
            return
        run = Path(args.output_dir)
        try:
            state.save_to_json(str(run / "trainer_state.json"))
            path = build_report([run], run / "report.html")
            # inject=False: what wandb shows is the file as it is.
            wandb.log({"report": wandb.Html(str(path), inject=False), "train/global_step": state.global_step})
        except Exception as error:
            warnings.warn(f"no report in wandb ({error}); `sayo report {run}` writes it", stacklevel=2)
