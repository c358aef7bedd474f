"""One file per data set. A source is iterable, sized, and yields `Example` or `Rejected`, one per question read."""
