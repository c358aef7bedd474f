"""Train a recipe, with or without a launcher.

    python scripts/train.py --config-name toy
    accelerate launch --config_file recipes/accelerate/zero2.yaml scripts/train.py --config-name sayo_qwen3_vl_8b \\
        data.path=prepared/gqa trainer.output_dir=runs/qwen3
"""

from sayo.training.cli import app

if __name__ == "__main__":
    app()
