"""Trainers: TRL's, with attention."""
