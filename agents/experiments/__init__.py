"""Grids of runs: evaluation, comparisons and studies, on this machine or on a Ray cluster."""
