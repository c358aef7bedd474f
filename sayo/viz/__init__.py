"""Pages and figures: one response token by token, runs and their evaluations, prepared rows, attention over time."""
