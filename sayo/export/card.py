"""The model card of an export: how to use a vision-language model (picture and text in), and how it was trained."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from sayo import __version__
from sayo.export.checkpoint import Checkpoint, display_name
from sayo.export.training_section import training_section

if TYPE_CHECKING:
    from sayo.export.package import ExportResult

FRAMEWORKS = ("trl", "transformers", "peft", "torch", "datasets")
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
CITATIONS = {
    "SAYO, attention on the region region as a reward": "https://arxiv.org/abs/2602.08241",
    "GRPO (DeepSeekMath)": "https://arxiv.org/abs/2402.03300",
    "TRL: Transformer Reinforcement Learning": "https://github.com/huggingface/trl",
}

QUICK_START = """```python
from PIL import Image
{imports}

{load}

messages = [
{system}    {{"role": "user", "content": [
        {{"type": "image"}},
        {{"type": "text", "text": "What colour is the object left of the chair?"}},
    ]}},
]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
inputs = processor(images=[Image.open("picture.jpg")], text=[prompt], return_tensors="pt").to(model.device)
output = model.generate(**inputs, max_new_tokens=512)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)[0])
```"""
LOAD_MERGED = """model = AutoModelForImageTextToText.from_pretrained("{name}", dtype="auto", device_map="auto")
processor = AutoProcessor.from_pretrained("{name}")"""
LOAD_ADAPTER = """base = AutoModelForImageTextToText.from_pretrained("{base}", dtype="auto", device_map="auto")
model = PeftModel.from_pretrained(base, "{name}")
processor = AutoProcessor.from_pretrained("{name}")"""


def write_card(folder: Path, source: Checkpoint, result: ExportResult, repository: str | None = None) -> None:
    """Write `folder/README.md`."""
    (folder / "README.md").write_text(model_card(folder, source, result, repository), encoding="utf-8")


def model_card(folder: Path, source: Checkpoint, result: ExportResult, repository: str | None = None) -> str:
    """The card of the exported `folder` as Markdown with a YAML front matter. Only what is known is said.

    `repository` is the hub id under which the quick start loads the model; without one it is the folder's name.
    """
    name = repository or result.out.name
    base = display_name(source.base) if source.base else None
    parts = [
        f"---\n{_front_matter(source, result)}\n---",
        f"# {name}",
        _introduction(base, source, result),
        "## Quick start",
        _quick_start(folder, name, base, source, result),
        _picture_sizes(folder),
        "## Training",
        *training_section(source),
        "## Framework versions",
        "\n".join(f"- {package}: {number}" for package, number in _versions()),
        "The licence of the base model applies to these weights.",
        "## References",
        "\n".join(f"- {title}: {link}" for title, link in CITATIONS.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(source: Checkpoint, result: ExportResult) -> str:
    from huggingface_hub import ModelCardData

    data = (source.recipe.get("data") or {}).get("path")
    return ModelCardData(
        base_model=source.base if _on_hub(source.base) else None,
        datasets=[data] if _on_hub(data) else None,
        library_name="transformers" if result.merged else "peft",
        pipeline_tag="image-text-to-text",
        tags=["sayo", "trl", *(["grpo"] if _reinforced(source) else []), "vision-language-model", "visual-attention"],
    ).to_yaml()


def _on_hub(name: str | None) -> bool:
    """Whether `name` looks like a hub id; a run's own folders (runs/demo) are none, also when they have gone."""
    return name is not None and bool(HUB_ID.match(name)) and not name.startswith("runs/") and not Path(name).exists()


def _reinforced(source: Checkpoint) -> bool:
    """A recipe without rewards is supervised fine-tuning; without a recipe nothing is claimed."""
    return bool(source.recipe.get("rewards"))


def _introduction(base: str | None, source: Checkpoint, result: ExportResult) -> str:
    start = f"**{base}**" if base else "a vision-language model"
    how = "reinforcement learning" if _reinforced(source) else "supervised learning"
    how = f"fine-tuned by {how}" if source.recipe else "fine-tuned"
    kept = "" if result.merged else " This folder holds the LoRA adapter; the base model is loaded beside it."
    return (
        f"A vision-language model (pictures and text in, text out): {start}, {how} with sayo, a framework that "
        f"rewards a policy for looking where the answer is.{kept}"
    )


def _quick_start(folder: Path, name: str, base: str | None, source: Checkpoint, result: ExportResult) -> str:
    imports = "from transformers import AutoModelForImageTextToText, AutoProcessor"
    processor = folder / "processor_config.json"
    if processor.is_file() and '"Toy' in processor.read_text():
        imports += "\n\nimport sayo.processors  # the processor of the toy world"
    prompt = (source.recipe.get("data") or {}).get("system_prompt")
    system = f'    {{"role": "system", "content": {json.dumps(prompt)}}},\n' if isinstance(prompt, str) else ""
    if result.merged:
        return QUICK_START.format(imports=imports, load=LOAD_MERGED.format(name=name), system=system)
    load = LOAD_ADAPTER.format(name=name, base=base)
    return QUICK_START.format(imports=f"from peft import PeftModel\n{imports}", load=load, system=system)


def _picture_sizes(folder: Path) -> str:
    """The pixel limits that training used, because attention on a region depends on them."""
    for name, key in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        if not (folder / name).is_file():
            continue
        config = json.loads((folder / name).read_text())
        size = (config.get(key) if key else config) or {}
        size = size.get("size") or {}
        if "longest_edge" in size and "shortest_edge" in size:  # Qwen's names for numbers of pixels
            least, most = size["shortest_edge"], size["longest_edge"]
            return (
                f"Pictures are scaled to between {least:,} and {most:,} pixels in all, as in training; the "
                "limits are in the processor. Other limits change the number of visual tokens."
            )
        if size:
            return "Pictures are scaled as in training: " + ", ".join(f"{k} {v}" for k, v in size.items()) + " pixels."
    return ""


def _versions() -> list[tuple[str, str]]:
    found = [("sayo", __version__)]
    for package in FRAMEWORKS:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found
