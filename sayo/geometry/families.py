"""One short builder per layout of visual tokens: image size -> cells, without running the processor.

A builder is a frozen dataclass whose fields are everything that its cells depend on (they become the fingerprint),
with `read(image_processor, config)` from the two JSON dictionaries and `cells(width, height, num_images)`.
To add a family: write a builder (or reuse one), add its model type to `FAMILIES`, and a row to
tests/geometry/families.yaml. Sources are the image processors of transformers 5.23 (models/<family>/).
"""

from typing import Any

from sayo.geometry.anyres import AnyresGrid, OneVisionGrid
from sayo.geometry.canvases import CohereGrid, LlamaGrid, MolmoGrid, OvisGrid, PerceptionGrid
from sayo.geometry.grids import (
    BudgetGrid,
    ClipGrid,
    FrameResizeGrid,
    PixtralGrid,
    SmartResizeGrid,
    SoftTokenGrid,
    StretchedGrid,
)
from sayo.geometry.tiles import GemmaGrid, IdeficsGrid, InternGrid

# transformers' `config.model_type` -> builder.
FAMILIES: dict[str, Any] = {
    "qwen2_vl": SmartResizeGrid,
    "qwen2_5_vl": SmartResizeGrid,
    "qwen3_vl": SmartResizeGrid,
    "qwen3_vl_moe": SmartResizeGrid,
    "qwen3_5": SmartResizeGrid,
    "qwen3_5_moe": SmartResizeGrid,
    "glm4v": FrameResizeGrid,
    "glm4v_moe": FrameResizeGrid,
    "glm46v": FrameResizeGrid,
    "internvl": InternGrid,
    "llava": ClipGrid,
    "llava_next": AnyresGrid,
    "llava_onevision": OneVisionGrid,
    "gemma3": GemmaGrid,
    "idefics3": IdeficsGrid,
    "smolvlm": IdeficsGrid,
    "paligemma": StretchedGrid,
    "mistral3": PixtralGrid,
    "aya_vision": InternGrid,
    "cohere2_vision": CohereGrid,
    "ovis2": OvisGrid,
    "perception_lm": PerceptionGrid,
    "llama4": LlamaGrid,
    "molmo2": MolmoGrid,
    "gemma3n": SoftTokenGrid,
    "gemma4": BudgetGrid,
    "gemma4_unified": BudgetGrid,
}
