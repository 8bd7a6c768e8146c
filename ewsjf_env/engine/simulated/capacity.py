"""The requests per second that a saturated engine finishes, once its batch is steady."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ewsjf_env.config import ConfigError
from ewsjf_env.measure.records import RequestRecord

_MIN_STEADY_FINISHES = 20


def steady_rate_per_s(records: Sequence[RequestRecord]) -> float:
    """Finishes per second of a backlog, without its start and its end.

    At the start nothing finishes, at the end nothing is admitted any more.  The steady part
    begins when as many requests have finished as ever run at once (the first batch has been
    replaced), at least a tenth of all, and ends with the last first token.

    Args:
        records: a backlog that arrived at 0 and was served to the end, first come first served.

    Raises:
        ConfigError: fewer than 20 finishes are left in the steady part.
    """
    finishes = np.sort([r.finish_s for r in records if r.finish_s is not None])
    admissions = np.sort([r.first_token_s for r in records if r.first_token_s is not None])
    running = np.arange(1, len(admissions) + 1) - np.searchsorted(finishes, admissions)
    most_running = int(running.max(initial=0))
    replaced = max(len(finishes) // 10, most_running)
    steady = finishes[replaced:][finishes[replaced:] <= admissions.max(initial=0.0)]
    if len(steady) < _MIN_STEADY_FINISHES:
        raise ConfigError(
            f"backlog: {len(records)} requests are too few where {most_running} run at once; "
            f"expected at least {4 * most_running + _MIN_STEADY_FINISHES}"
        )
    return float((len(steady) - 1) / (steady[-1] - steady[0]))
