"""Accounts of the tenants of a trace, as compiled code has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.compiled.kernel.state import Integers, new_tenants
from ewsjf_env.scheduling.tenants import TenantSettings

MAX_NAMES = 64  # each has an order of its own, and histograms of the output


def tenant_accounts(
    settings: TenantSettings, priority: Integers | None, count: int
) -> tuple[Integers, Any]:
    """Who sent each request, and the accounts.

    Args:
        settings: of the scheduler.
        priority: of each request, shape (n,), the tenant by `by: priority`; None: all 0.
        count: n.

    Returns:
        The number of each request's tenant, shape (n,), and T + 1 accounts: of the tenants, of
        all others together, and one as new.

    Raises:
        ConfigError: more tenants than are compiled.
    """
    numbers, names = np.zeros(count, np.int64), ["0" if settings.by == "priority" else ""]
    if settings.by == "priority" and priority is not None:
        found, numbers = np.unique(priority, return_inverse=True)
        names = [str(one) for one in found.tolist()]
    if len(names) > MAX_NAMES:
        raise ConfigError(
            f"tenants: the trace has {len(names)}, compiled are at most {MAX_NAMES}; "
            "use engine: simulated"
        )
    accounts = new_tenants(len(names) + 2)
    for number, name in enumerate(names):
        if name in settings.weights:
            accounts["weight"][number] = settings.weights[name]
            accounts["listed"][number] = accounts["there"][number] = 1
    sizes = np.bincount(numbers, minlength=len(names))
    accounts["heap_start"][1 : len(names) + 1] = np.cumsum(sizes)
    return numbers, accounts
