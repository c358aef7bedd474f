"""Stand-ins of published models: their classes, processor, special tokens, chat template and pixel limits, with tiny
random weights. What the real checkpoint's folder would refuse or resize, these refuse and resize too.

    python -m scripts.stand_ins qwen3_vl /tmp/qwen3-vl
"""

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES
from transformers.utils import is_torchvision_available

from sayo import processors
from sayo.toyworld.policy import config_of, generation_config_of
from sayo.toyworld.vocabulary import byte_tokenizer

_ENTRIES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
FAMILIES: dict[str, dict[str, Any]] = _ENTRIES["families"]
MODELS: dict[str, dict[str, Any]] = _ENTRIES["models"]
"""Names of recipes/model -> `family`, and what differs from its entry."""


def make_stand_in(name: str, folder: Path, seed: int = 0) -> Path:
    """Write model and processor of a family or of a model of recipes/model into `folder`; float32, about a megabyte.

    Without torchvision the processors that also take videos cannot be made: Qwen's are then written as the toy's
    (`sayo.processors`), and the others are an ImportError.
    """
    own = MODELS.get(name, {"family": name})
    family = own["family"]
    entry = {**FAMILIES[family], **own}
    tokenizer = make_tokenizer(entry)
    config = config_of(family, entry, tokenizer)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config = generation_config_of(tokenizer)
    model.save_pretrained(folder)
    make_processor(family, entry, tokenizer).save_pretrained(folder)
    return Path(folder)


def make_tokenizer(entry: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Bytes, and the family's special tokens."""
    special = [entry["pad"], entry["eos"], *filter(None, [entry.get("bos")]), *entry["special"]]
    if "ROWS" in special:
        special.remove("ROWS")
        special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    template = entry["template"]
    if " " in template:
        template = template.replace("IMAGE", entry["ids"]["image"])
    else:
        template = (files("trl") / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
    tokens = {f"{kind}_token": entry.get(kind) for kind in ("pad", "eos", "bos")}
    return byte_tokenizer(special, **tokens, extra_special_tokens=entry.get("named", {}), chat_template=template)


def make_processor(family: str, entry: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> Any:
    """The family's own processor class, with the family's own image (and video) processor."""
    backend = "torchvision" if is_torchvision_available() else "pil"
    image_processor = getattr(transformers, IMAGE_PROCESSOR_MAPPING_NAMES[family][backend])(**entry["image_processor"])
    name, options = PROCESSOR_MAPPING_NAMES[family], dict(entry.get("processor", {}))
    if backend == "pil" and hasattr(processors, f"Toy{name}"):
        return getattr(processors, f"Toy{name}")(image_processor, tokenizer, chat_template=tokenizer.chat_template)
    if backend == "pil" and family in VIDEO_PROCESSOR_MAPPING_NAMES:
        raise ImportError(f"{name} also takes videos, for which it needs torchvision: pip install '.[vision]'")
    cls = getattr(transformers, name)
    if "video_processor" in cls.get_attributes():
        options["video_processor"] = getattr(transformers, VIDEO_PROCESSOR_MAPPING_NAMES[family]["torchvision"])()
    return cls(image_processor=image_processor, tokenizer=tokenizer, chat_template=tokenizer.chat_template, **options)


if __name__ == "__main__":
    print(make_stand_in(sys.argv[1], Path(sys.argv[2])))
