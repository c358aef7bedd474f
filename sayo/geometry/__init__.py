"""Where each visual token of an image comes from, and which tokens a region covers.

Importing it never imports torch.
"""

from sayo.geometry.boxes import RegionError
from sayo.geometry.cells import LayoutError, VisualCells
from sayo.geometry.layout import VisualLayout
from sayo.geometry.regions import Region, coverage_of_box, coverage_of_mask, region_tokens
from sayo.geometry.settings import with_limits

__all__ = [
    "LayoutError",
    "Region",
    "RegionError",
    "VisualCells",
    "VisualLayout",
    "coverage_of_box",
    "coverage_of_mask",
    "region_tokens",
    "with_limits",
]
