"""Seed ranges of traces: what is learnt from, and what judges, never share a draw."""

TRAINING_SEEDS = 10_000
"""First seed of training traces; judging uses 0, 1, ..."""
