"""`sayo train` as a script, which a launcher can start.

    python scripts/train.py --config-name toy
    accelerate launch --config_file recipes/accelerate/zero1.yaml scripts/train.py --config-name sayo \\
        model=qwen3_vl_8b data.path=prepared/gqa
"""

import sys

from sayo.cli import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:]])
