"""Where each visual token of an image comes from, and which tokens a region covers.

numpy only: importing it never imports torch.
"""

from sayo.geometry.cells import VisualCells, cells_from_count
from sayo.geometry.layout import VisualLayout
from sayo.geometry.regions import (
    Region,
    coverage_of_box,
    coverage_of_mask,
    coverage_of_region,
    mask_of_polygons,
    mask_of_rle,
    region_tokens,
)

__all__ = [
    "Region",
    "VisualCells",
    "VisualLayout",
    "cells_from_count",
    "coverage_of_box",
    "coverage_of_mask",
    "coverage_of_region",
    "mask_of_polygons",
    "mask_of_rle",
    "region_tokens",
]
