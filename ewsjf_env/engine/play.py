"""The player: one policy serves one trace on an engine, window by window.

Everything that asks "what would this policy have made of this traffic?" is a loop over `play`: an
evaluation has one window a run, a study of tenants one a second, a measured server the same ones
as its simulation.  An environment plays through `env.episode`, whose windows need a reference, and
a live guard, besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ewsjf_env.engine.base import Engine
    from ewsjf_env.measure.records import WindowMetrics
    from ewsjf_env.policy.policy import Policy
    from ewsjf_env.workload.trace import Trace

SAME_MOMENT_S = 1e-9  # moments of an engine's clock that are closer are one


def play(
    engine: Engine,
    policy: Policy | None,
    trace: Trace,
    windows_s: Iterable[float],
    warm_up_s: float = 0.0,
) -> Iterator[WindowMetrics]:
    """Serve a trace from an empty engine, and measure its windows one after the other.

    A window is served when it is asked for: in between, the caller may look at the engine's
    records, or change its policy.  The engine stays where the last window ended, for a drain or
    more windows, and is not closed.

    Args:
        engine: any; what it served before is dropped.
        policy: in force from the start; None: what is installed, or the engine's own order.
        trace: the requests; the same trace for every policy that is compared.
        windows_s: length of each window in seconds, > 0.
        warm_up_s: served before the first window, and not measured, >= 0.

    Raises:
        ConfigError: a request can never be served, or the engine cannot serve the policy.
        EngineError: the engine failed.
    """
    begin(engine, policy, trace)
    if warm_up_s > 0.0:
        engine.run_window(warm_up_s)
    for window_s in windows_s:
        yield engine.run_window(window_s)


def begin(engine: Engine, policy: Policy | None, trace: Trace) -> None:
    """Start a trace on an empty engine under a policy; arguments and errors as in `play`."""
    if policy is not None:
        engine.install(policy)
    engine.reset(trace)


def run_until(engine: Engine, moment_s: float) -> None:
    """Serve up to a moment of the engine's clock; a moment that has passed changes nothing."""
    if moment_s > engine.now() + SAME_MOMENT_S:
        engine.run_window(moment_s - engine.now())
