"""The embedded default: a grounded world drawn by code, and a tiny policy that can learn it on a laptop."""
