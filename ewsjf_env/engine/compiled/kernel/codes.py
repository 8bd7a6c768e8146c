"""Numbers that stand for words in compiled code."""

from __future__ import annotations

# Where the loop of the clock goes on.
ADMIT, TIMED, SCHEDULE, WAIT = 0, 1, 2, 3

# Why `advance` has returned: the time is reached, nothing is left, or Python is asked for help.
REACHED, IDLE, REPARTITION, REFIT, NOISE, STUCK, ADAPT = 0, 1, 2, 3, 4, 5, 6

# What the re-partition is at: an evaluation, or a comparison that has found nothing.
EVALUATING, COMPARED = 1, 2

# Where a request is.
AHEAD, IN_ORDER, IN_RECOVERY, RUNNING, FINISHED, SKIPPED = 0, 1, 2, 3, 4, 5

NOBODY = -1

# What a request gives in a step: nothing, a token of its decoding, the token that ends its prefill.
NOTHING, DECODED, COMPLETED = 0, 1, 2

# How an order picks: the oldest, the smallest key, the best score.
OLDEST, KEYED, SCORED = 0, 1, 2

# Keys of `keyed.py`.
BY_LENGTH, BY_UNCACHED, BY_TOTAL, BY_PRIORITY, BY_HASH = 0, 1, 2, 3, 4
BY_AGED_LENGTH, BY_BOOST, BY_SHORT_FIRST = 5, 6, 7

# Scores of `scores.py`.
POWER, NORMALISED, PAPER, AUTHORS, RESPONSE_RATIO, SIGMOID = 0, 1, 2, 3, 4, 5

# Who fills a step after its first pick.
BACKFILL = {"score": 0, "adjacent": 1, "none": 2}
BY_SCORE, ADJACENT, NO_BACKFILL = 0, 1, 2
