"""One file per data set. A source is iterable, sized, and yields `Example` or `Reject`, one per question read."""
