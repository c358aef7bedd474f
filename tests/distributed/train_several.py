"""Run on every rank by a launcher: train some recipes one after the other and report what each rank really was.

    accelerate launch ... train_several.py JOBS.json

JOBS.json maps a name to the plain values of a recipe; with `"poison": true` beside them, rank 1's first gradient is
infinite. A recipe in the folder of an earlier one resumes from there. Into each run's output_dir go `rank_<r>.json`,
the saved model and, from rank 0, `trained.safetensors` with the trainable parameters in full.
"""

import json
import os
import sys
from pathlib import Path

from sayo.training import launch


def main(jobs_file: str) -> None:
    jobs = json.loads(Path(jobs_file).read_text())
    launch.die_with_launcher()
    for values in jobs.values():
        launch.prepare_environment(values["trainer"])
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            let_fsdp_run_on_gloo()
        run_one(values)
    import torch.distributed as distributed

    distributed.barrier()
    distributed.destroy_process_group()


def run_one(values: dict) -> None:
    from safetensors.torch import save_file

    from sayo.recipes import parse_recipe
    from sayo.training import ranks
    from sayo.training.guards import NonFiniteError
    from sayo.training.run import _choose, build_trainer

    poison, stopped = values.pop("poison", False), None
    recipe = parse_recipe(values)
    trainer = build_trainer(recipe)
    launch.check_launch(trainer)
    folder = Path(trainer.args.output_dir)
    checkpoint, _, trainer.start, trainer.changes = ranks.of_rank_0(lambda: _choose(recipe, folder), 300)
    if poison and trainer.accelerator.process_index == 1:
        parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except NonFiniteError as error:
        stopped = str(error)
    folder.mkdir(parents=True, exist_ok=True)
    if not poison:
        trainer.save_model(str(folder / "saved"))
    parameters = full_parameters(trainer)
    report = {
        "world_size": trainer.args.world_size,
        "rank": trainer.accelerator.process_index,
        "env_rank": int(os.environ["RANK"]),
        "distributed_type": trainer.accelerator.distributed_type.value,
        "wrapped": type(trainer.model_wrapped).__name__,
        "sharding": launch.sharding(trainer),
        "local_elements": sum(local_elements(p) for p in trainer.model.parameters() if p.requires_grad),
        "elements": sum(p.numel() for p in parameters.values()),
        "attention_read": sorted(trainer._said),
        "log": trainer.state.log_history,
        "stopped": stopped,
    }
    (folder / f"rank_{report['rank']}.json").write_text(json.dumps(report))
    if report["rank"] == 0:
        save_file(parameters, folder / "trained.safetensors")


def full_parameters(trainer) -> dict:
    """Trainable parameters, gathered where they are sharded."""
    import deepspeed

    full = {}
    for name, parameter in trainer.accelerator.unwrap_model(trainer.model).named_parameters():
        if not parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_id"):
            with deepspeed.zero.GatheredParameters([parameter]):
                full[name] = parameter.detach().clone()
        else:
            whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            full[name] = whole.detach().clone().contiguous()
    return full


def local_elements(parameter) -> int:
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.numel()
    return parameter.to_local().numel() if hasattr(parameter, "to_local") else parameter.numel()


def let_fsdp_run_on_gloo() -> None:
    """accelerate turns FSDP off on CPU, although torch's FSDP2 works over gloo: make it take its FSDP branch.

    For tests only.
    """
    from accelerate import state
    from accelerate.utils import DistributedType

    init = state.AcceleratorState.__init__

    def init_as_if_on_gpu(self, *args, **kwargs):
        shared = state.PartialState._shared_state
        if shared.get("distributed_type") == DistributedType.MULTI_CPU:
            shared["distributed_type"] = DistributedType.MULTI_GPU
        init(self, *args, **kwargs)

    if init.__name__ == "__init__":
        state.AcceleratorState.__init__ = init_as_if_on_gpu


if __name__ == "__main__":
    main(sys.argv[1])
