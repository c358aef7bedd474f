"""From a training checkpoint to an ordinary model folder: merged, checked against its source, with a model card."""
