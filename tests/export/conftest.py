"""Run folders as training leaves them, made of the toy policies (real Qwen3-VL and Qwen2.5-VL classes)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from sayo.toyworld.policy import make_policy, make_processor

HERE = Path(__file__).parent


def write_policy(folder: Path, family: str, seed: int = 0) -> Path:
    """A random policy whose weights are large enough that any wrong tensor changes the logits."""
    model = make_policy(family, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    make_processor(family).save_pretrained(folder)
    return folder


def as_checkpoint(folder: Path, base: Path) -> Path:
    """Add the trainer's log to `folder` and the resolved recipe to its parent, the run."""
    shutil.copy(HERE / "trainer_state.json", folder)
    (folder.parent / "recipe.yaml").write_text((HERE / "recipe.yaml").read_text().replace("{base}", str(base)))
    return folder


@pytest.fixture(scope="session", params=("qwen3_vl", "qwen2_5_vl"))
def family(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def base(family: str, tmp_path_factory) -> Path:
    """The model that training started from."""
    return write_policy(tmp_path_factory.mktemp("base") / f"base_{family}", family)


@pytest.fixture
def full_checkpoint(family: str, base: Path, tmp_path: Path) -> Path:
    """A checkpoint of full fine-tuning: the same architecture with other weights."""
    return as_checkpoint(write_policy(tmp_path / "run" / "checkpoint-2", family, seed=1), base)


@pytest.fixture
def make_lora(tmp_path: Path) -> Callable[..., Path]:
    """`make_lora(base, **peft options)` -> a LoRA checkpoint whose adapter changes the logits."""

    def build(base: Path, **options) -> Path:
        torch.manual_seed(3)
        model = AutoModelForImageTextToText.from_pretrained(base)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], **options)
        model = get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name or "modules_to_save" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        adapter = tmp_path / "lora" / "checkpoint-2"
        model.save_pretrained(adapter)
        AutoProcessor.from_pretrained(base).save_pretrained(adapter)
        return as_checkpoint(adapter, base)

    return build


@pytest.fixture(scope="session")
def logits_of() -> Callable[..., np.ndarray]:
    """Logits of a saved model on one picture and question, through the public loaders only."""

    def read(folder: Path, adapter: Path | None = None) -> np.ndarray:
        processor = AutoProcessor.from_pretrained(folder)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        picture = Image.fromarray(np.random.default_rng(5).integers(0, 255, (80, 64, 3), dtype=np.uint8))
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour?"}]}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        with torch.no_grad():
            return model.eval()(**processor(images=[picture], text=[text], return_tensors="pt")).logits.numpy()

    return read
