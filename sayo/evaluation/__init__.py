"""How often a policy answers right, and where it looks while it does."""
