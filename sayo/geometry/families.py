"""One short builder per layout of visual tokens: image size -> cells, without running the processor.

A builder is a frozen dataclass whose fields are everything that its cells depend on (they become the fingerprint),
with `read(image_processor, config)` from the two JSON dictionaries and `cells(width, height, num_images)`.
To add a family: write a builder (or reuse one), add its model type to `_FAMILIES`, and a row to
tests/geometry/families.yaml. Sources are the image processors of transformers 5.23 (models/<family>/).
"""

from typing import Any

from sayo.geometry import anyres, canvases, grids, tiles

_FAMILIES = {
    grids.SmartResizeGrid: "qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe qwen3_5 qwen3_5_moe",
    grids.FrameResizeGrid: "glm4v glm4v_moe glm46v",
    tiles.InternGrid: "internvl aya_vision",
    grids.ClipGrid: "llava",
    anyres.AnyresGrid: "llava_next",
    anyres.OneVisionGrid: "llava_onevision",
    tiles.GemmaGrid: "gemma3",
    tiles.IdeficsGrid: "idefics3 smolvlm",
    grids.StretchedGrid: "paligemma",
    grids.PixtralGrid: "mistral3",
    canvases.CohereGrid: "cohere2_vision",
    canvases.OvisGrid: "ovis2",
    canvases.PerceptionGrid: "perception_lm",
    canvases.LlamaGrid: "llama4",
    canvases.MolmoGrid: "molmo2",
    grids.SoftTokenGrid: "gemma3n",
    grids.BudgetGrid: "gemma4 gemma4_unified",
}
FAMILIES: dict[str, Any] = {name: builder for builder, names in _FAMILIES.items() for name in names.split()}
"""transformers' `config.model_type` -> builder."""
