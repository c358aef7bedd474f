"""`sayo` with a vLLM on a CPU that keeps its weights where a trainer can write them; a process of its own per engine.

    python tests/engines/command.py [--without FIX] train --config-name recipe.yaml

vLLM's CPU backend packs the weights of linear layers after loading and drops the originals, so that no trainer could
sync them; on a GPU they stay. `--without` takes one of sayo's own corrections away, to show what then stops the run.
"""

import os
import sys

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def keep_weights() -> None:
    import torch.nn.functional as F
    import vllm.model_executor.layers.utils as layers

    def dispatch(layer, remove_weight=False):
        layer.cpu_linear = lambda x, weight, bias: F.linear(x, layer.weight, bias)

    layers.dispatch_cpu_unquantized_gemm = dispatch


def take_away(fix: str) -> None:
    from sayo.training import engine, grpo

    if fix == "unexpanded prompts":
        engine.SamePrompts._unexpanded = lambda self, ids: list(ids)
    elif fix == "pixel limits":
        engine.changed_size = lambda processor, model: None
    elif fix == "ban in scoring":
        grpo.ban_tokens = lambda model, ids: None


if __name__ == "__main__":
    words = sys.argv[1:]
    keep_weights()
    if words[0] == "--without":
        take_away(words[1])
        words = words[2:]
    from sayo.cli import app

    app(words)
