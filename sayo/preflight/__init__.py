"""Preflight: what a recipe needs in memory and time, before any weight is loaded."""
