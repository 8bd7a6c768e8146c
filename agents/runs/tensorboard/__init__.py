"""Curves, texts and pictures of a tuning run in TensorBoard."""
