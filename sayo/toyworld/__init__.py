"""The built-in demo: a synthetic grounded world, and a tiny policy that can learn it on a laptop."""
