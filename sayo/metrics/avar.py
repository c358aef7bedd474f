"""AVAR's visual attention score (VAS): attention on the image against attention on the system prompt.

Source: "From Narrow to Panoramic Vision" (arXiv 2603.03825). The paper averages ratios, its release divides sums; the
two differ several-fold, so the order is an argument and must be reported with every result.
"""

from typing import Literal

import numpy as np

Order = Literal["mean_of_ratios", "heads_first", "layers_and_heads_first", "ratio_of_sums"]


def vas(image_mass: np.ndarray, system_mass: np.ndarray, order: Order = "mean_of_ratios", eps: float = 1e-6) -> float:
    """Visual attention score.

    Args:
        image_mass, system_mass: `(L, H, U)` attention mass of U query rows on the visual and the system tokens. For
            an `AttentionTrace`, whose heads are averaged, insert an axis H = 1.
        order: what is averaged before the division.
            `"mean_of_ratios"`: nothing (the paper); `"heads_first"`: heads; `"layers_and_heads_first"`: layers and
            heads (the release's docstring); `"ratio_of_sums"`: everything (the release's code).
        eps: added to the denominator.

    Raises:
        ValueError: shapes differ, are not `(L, H, U)` or are empty; unknown order.
    """
    image, system = np.asarray(image_mass, dtype=np.float64), np.asarray(system_mass, dtype=np.float64)
    if image.shape != system.shape or image.ndim != 3 or image.size == 0:
        raise ValueError(f"both masses must be (L, H, U) and not empty, got {image.shape} and {system.shape}")
    axes = {"mean_of_ratios": (), "heads_first": (1,), "layers_and_heads_first": (0, 1), "ratio_of_sums": (0, 1, 2)}
    if order not in axes:
        raise ValueError(f"order must be one of {sorted(axes)}, got {order!r}")
    if order == "ratio_of_sums":
        return float(image.sum() / (system.sum() + eps))
    return float((image.mean(axis=axes[order]) / (system.mean(axis=axes[order]) + eps)).mean())
