"""Seed ranges of traces: what is learnt from, and what judges, never share a draw."""

JUDGED = range(5_000)
"""Traces that judge policies: evaluations, comparisons and studies."""
CONFIRMATION = range(5_000, 10_000)
"""Traces on which an export asks whether a policy is better than its start."""
TRAINING = range(10_000, 1_000_000)
"""Traces that tuners, searches and the default policy learn from."""
CAPACITY = range(1_000_003, 1_000_004)
"""The backlog that measures the capacity of a machine."""
