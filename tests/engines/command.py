"""`sayo` with a vLLM on a CPU that a trainer can sync its weights to; a process of its own for each engine.

    python tests/engines/command.py [--without FIX] train --config-name recipe.yaml

What a CPU lacks is replaced, all else is vLLM's: its CPU backend packs the weights of linear layers after loading and
drops the originals; it would compute float32 models in bfloat16; and a server takes new weights by NCCL only (the
tests of the server do not change them). `--without` takes one of sayo's own corrections away, to show what stops the
run.
"""

import os
import sys

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def adapt_to_cpu() -> None:
    from functools import partial

    import torch.nn.functional as F
    import vllm.model_executor.layers.utils as layers
    from trl.generation import vllm_client, vllm_generation

    def dispatch(layer, remove_weight=False):
        layer.cpu_linear = lambda x, weight, bias: F.linear(x, layer.weight, bias)

    layers.dispatch_cpu_unquantized_gemm = dispatch
    vllm_generation.LLM = partial(vllm_generation.LLM, dtype="float32", enforce_eager=True, skip_mm_profiling=True)
    for transfer in ("init_communicator", "update_named_params"):
        setattr(vllm_client.VLLMClient, transfer, lambda *args, **kwargs: None)


def take_away(fix: str) -> None:
    from trl.generation import vllm_generation

    from sayo.training import engine, grpo

    if fix == "unexpanded prompts":
        engine.SamePrompts._unexpanded = lambda self, ids: list(ids)
    elif fix == "pixel limits":
        engine.changed_size = lambda processor, model: None
    elif fix == "ban in scoring":
        grpo.ban_tokens = lambda model, ids: None
    elif fix == "forgotten features":
        engine.SamePrompts.sync_weights = vllm_generation.VLLMGeneration.sync_weights


if __name__ == "__main__":
    words = sys.argv[1:]
    adapt_to_cpu()
    if words[0] == "--without":
        take_away(words[1])
        words = words[2:]
    from sayo.cli import app

    app(words)
