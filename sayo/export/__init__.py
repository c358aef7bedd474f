"""From a training checkpoint to an ordinary model folder: merged, checked against its source, with a model card."""

from sayo.export.checkpoint import Checkpoint, ExportError
from sayo.export.package import ExportResult, export_checkpoint

__all__ = ["Checkpoint", "ExportError", "ExportResult", "export_checkpoint"]
