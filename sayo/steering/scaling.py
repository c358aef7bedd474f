"""AVAR's training-free intervention: raw attention scores of image and system keys are scaled before the softmax."""

from torch import nn

from sayo.attention.following import Prompt
from sayo.attention.layers import LayerSpec
from sayo.steering.calls import Steering


class ScoreScaling(Steering):
    """Scale the scores of image keys by `1 + image` and of system keys by `1 - system` while the body generates.

    Source: AVAR, "From Narrow to Panoramic Vision" (arXiv 2603.03825), as ClearSight's VAF (arXiv 2503.13107). Scaling
    a key scales its score before mask, soft-capping and softmax, so this is exact with any kernel; the cache keeps the
    unscaled keys. Scores are scaled, not weights: a negative score of an image key becomes more negative. The paper
    does not say which rows it scales; here it is all rows, including the prompt's. System keys are all tokens before
    the first visual token.

    Args:
        model: any transformers vision-language model, wrapped or not.
        image: the paper's alpha_img.
        system: the paper's alpha_sys (0, 0.05, 0.4 and 0.6 in the paper).
        layers: decoder layers; see `AttentionCapture`.

    Raises:
        ValueError: unknown layers.

    Example:
        >>> with ScoreScaling(model, image=0.15, system=0.4):
        ...     output = model.generate(**inputs, max_new_tokens=64)
    """

    def __init__(self, model: nn.Module, image: float = 0.15, system: float = 0.0, layers: LayerSpec = "all"):
        super().__init__(model, layers)
        self.image, self.system = image, system

    def _start(self, prompt: Prompt) -> None:
        system = prompt.real & (prompt.image.cumsum(dim=1) == 0) & prompt.image.any(dim=1, keepdim=True)
        self._excess = self.image * prompt.image.float() - self.system * system.float()  # factor - 1

    def adjust(self, layer: int, module: nn.Module, query, key, attention_mask, kernel: str, **kwargs) -> tuple:
        self.seen.add(layer)
        if self.image == 0 and self.system == 0:
            return query, key, attention_mask
        factor = 1 + self._on_keys(self._excess, key.shape[2])
        return query, key * factor[:, None, :, None].to(key.dtype), attention_mask
