"""Make an environment with torchvision and the packages of this one: python scripts/torchvision_env.py FOLDER

torchvision's wheel is a CUDA build. Beside a CPU torch its operators do not load; its Python files, all that image
processors need, import once the schemas of two of them exist.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

SCHEMAS = """
if not _has_ops():
    _schemas = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _schemas.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""

folder = Path(sys.argv[1])
venv.EnvBuilder(clear=True, symlinks=True).create(folder)
pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet", "--no-deps"]
subprocess.run([*pip, "torchvision==0.28.0"], check=True)
site = Path(sysconfig.get_path("purelib", "posix_prefix", {"base": folder}))
with (site / "torchvision/extension.py").open("a") as extension:
    extension.write(SCHEMAS)
(site / "packages.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
