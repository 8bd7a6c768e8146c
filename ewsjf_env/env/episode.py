"""An episode: one trace, served window by window: apply, settle, measure, compare.

The engine keeps its requests from window to window, so a queue built
under one candidate is partly served under the next: the settle time before each window is
discarded, and what is left of the carry-over is the same for the agent to see (queue depth,
oldest age).  The reference serves the same trace in the same windows (`reference.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ewsjf_env.engine.base import Engine
from ewsjf_env.env.reference import EPSILON_S, Reference, ReferenceWindow
from ewsjf_env.measure.jackknife import without_groups
from ewsjf_env.measure.records import MetricSettings, PartMetrics, WindowMetrics
from ewsjf_env.measure.requests import Requests
from ewsjf_env.measure.traffic import (
    QueueStatistics,
    TrafficStatistics,
    queue_statistics,
    traffic_statistics,
)
from ewsjf_env.policy.policy import Policy
from ewsjf_env.workload.trace import Trace

Breach = Callable[[WindowMetrics, "WindowMetrics | None"], bool]


@dataclass(frozen=True)
class AbortRule:
    """When to break off a window, and what serves the rest of it.

    Attributes:
        breach: called about once a second with the metrics of the window so far, and those of
            the reference after as many seconds; True breaks the window off.
        fallback: parameter values put in force at once when it did.
    """

    breach: Breach
    fallback: Mapping[str, object]


@dataclass(frozen=True)
class WindowResult:
    """One window, measured from `start_s` to `end_s` in engine seconds.

    Attributes:
        parameters: all values of the policy that were really in force.
        metrics: of the window; of its part before the abort when `aborted`.
        reference: of the reference over the same seconds; None without one.
        traffic: arrivals of the window and backlog at its end.
        queues: how the partition in force fits them.
        cuts: of that partition, upper prompt lengths in tokens.
        parts: metrics without each group of requests, and the reference's without the same;
            empty after an abort.
    """

    parameters: Mapping[str, object]
    metrics: WindowMetrics
    reference: WindowMetrics | None
    traffic: TrafficStatistics
    queues: QueueStatistics
    start_s: float
    end_s: float
    aborted: bool = False
    cuts: tuple[int, ...] = ()
    parts: tuple[tuple[PartMetrics, PartMetrics | None], ...] = ()


class Episode:
    """One trace, served window by window."""

    def __init__(
        self,
        engine: Engine,
        reference: Reference | None,
        policy: Policy,
        trace: Trace,
        settings: MetricSettings | None = None,
    ) -> None:
        """Start the trace on an engine, under the start values of `policy`.

        `settings` are the class limits of the engine's metrics.

        Raises:
            ConfigError: a request of the trace can never be served.
            EngineError: the engine failed.
        """
        self._engine = engine
        self._reference = reference
        self._settings = settings or MetricSettings()
        engine.install(policy)
        engine.reset(trace)
        if reference is not None:
            reference.reset(trace)

    def window(
        self,
        values: Mapping[str, object],
        window_s: float,
        settle_s: float = 0.0,
        abort: AbortRule | None = None,
    ) -> WindowResult:
        """Put `values` in force, discard `settle_s`, then measure `window_s`.

        After an abort the fallback serves the rest of the window, so that every window takes
        the same time and the next one starts at the same moment of the trace.

        Raises:
            ConfigError: an unknown parameter or illegal value.
            EngineError: the engine failed.
        """
        engine = self._engine
        in_force = engine.apply(values)
        if settle_s > 0:
            engine.run_window(settle_s)
        start_s = engine.now()
        planned_s = start_s + window_s
        reference = None
        if self._reference is not None:
            reference = self._reference.window(start_s, planned_s, beginnings=abort is not None)
        metrics = engine.run_window(window_s, _should_abort(abort, reference))
        result = self._measured(in_force, metrics, reference, start_s, planned_s)
        if abort is not None and result.aborted:
            engine.apply(abort.fallback)
            engine.run_window(planned_s - result.end_s)
        return result

    def _measured(
        self,
        in_force: Mapping[str, object],
        metrics: WindowMetrics,
        reference: ReferenceWindow | None,
        start_s: float,
        planned_s: float,
    ) -> WindowResult:
        engine = self._engine
        end_s = engine.now()
        requests = engine.requests(start_s, end_s)
        aborted = end_s < planned_s - EPSILON_S
        compared = None
        if reference is not None:
            compared = reference.after(metrics.window_s) if aborted else reference.metrics
        cuts = tuple(engine.cuts())
        return WindowResult(
            parameters=dict(in_force),
            metrics=metrics,
            reference=compared,
            traffic=traffic_statistics(requests, start_s, end_s),
            queues=queue_statistics(requests, cuts, start_s),
            start_s=start_s,
            end_s=end_s,
            aborted=aborted,
            cuts=cuts,
            parts=() if aborted else self._parts(metrics, requests, reference, start_s, end_s),
        )

    def _parts(
        self,
        metrics: WindowMetrics,
        requests: Requests,
        reference: ReferenceWindow | None,
        start_s: float,
        end_s: float,
    ) -> tuple[tuple[PartMetrics, PartMetrics | None], ...]:
        own = without_groups(metrics, requests, start_s, end_s, self._settings)
        if reference is None:
            return tuple((part, None) for part in own)
        return tuple(zip(own, reference.parts, strict=True))


def _should_abort(
    abort: AbortRule | None, reference: ReferenceWindow | None
) -> Callable[[WindowMetrics], bool] | None:
    if abort is None:
        return None
    rule = abort

    def should_abort(metrics: WindowMetrics) -> bool:
        compared = None if reference is None else reference.after(metrics.window_s)
        return rule.breach(metrics, compared)

    return should_abort
