"""The reference policy on the traffic of an environment, in the same windows.

A second engine serves the same trace under one fixed policy, and steps through the same windows.
What it measured is kept: a trace that comes again (`trace_pool`, a seed used twice) costs nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ewsjf_env.engine.base import Engine
from ewsjf_env.measure.jackknife import without_groups
from ewsjf_env.measure.records import MetricSettings, PartMetrics, WindowMetrics
from ewsjf_env.policy.policy import Policy
from ewsjf_env.workload.trace import Trace

EPSILON_S = 1e-6  # moments closer than this are one moment
MAX_KEPT = 2_000  # windows; each holds what its requests waited


@dataclass(frozen=True)
class ReferenceWindow:
    """One window of the reference: its metrics, and where asked for those of its beginnings.

    `parts` are its metrics without each group of requests, see `jackknife.without_groups`.
    """

    metrics: WindowMetrics
    parts: tuple[PartMetrics, ...] = ()
    beginnings: tuple[WindowMetrics, ...] = ()

    def after(self, elapsed_s: float) -> WindowMetrics:
        """Metrics of about the first `elapsed_s` seconds, never of more unless there is no less."""
        if not self.beginnings:
            return self.metrics
        ends = [m.window_s for m in self.beginnings]
        return self.beginnings[max(0, bisect_right(ends, elapsed_s + EPSILON_S) - 1)]


_Store = OrderedDict[tuple[str, str, float, float], ReferenceWindow]
_SHARED: _Store = OrderedDict()


class Reference:
    """The reference policy on the traces of an environment."""

    def __init__(
        self,
        policy: Policy,
        build_engine: Callable[[], Engine],
        settings: MetricSettings | None = None,
        shared_as: str | None = None,
    ) -> None:
        """Nothing is served yet.

        Args:
            policy: the reference.
            build_engine: called when the first window has to be computed.
            settings: class limits of the engines' metrics.
            shared_as: names policy and engine: what was measured is then kept for every
                reference of the same name in this process.
        """
        self._policy = policy
        self._settings = settings or MetricSettings()
        self._build_engine = build_engine
        self._engine: Engine | None = None
        self._trace: Trace | None = None
        self._digest = ""
        self._served = ""
        self._name = shared_as or ""
        self._kept: _Store = OrderedDict() if shared_as is None else _SHARED

    def reset(self, trace: Trace) -> None:
        """Compare with this trace from now on."""
        self._trace = trace
        self._digest = trace.digest()

    def window(self, start_s: float, end_s: float, beginnings: bool = False) -> ReferenceWindow:
        """The window [start_s, end_s) of the trace, from the store or served now.

        Args:
            start_s: start in engine seconds.
            end_s: its end.
            beginnings: also measure the window's first seconds, about one by one.

        Raises:
            EngineError: the engine failed, or `reset` was never called.
        """
        key = (self._name, self._digest, round(start_s, 6), round(end_s, 6))
        found = self._kept.get(key)
        if found is None or (beginnings and not found.beginnings):
            found = self._serve(start_s, end_s, beginnings)
            self._kept[key] = found
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return found

    def close(self) -> None:
        """Free the engine, keep what was measured; may be called more than once."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None
        self._served = ""

    def _serve(self, start_s: float, end_s: float, beginnings: bool) -> ReferenceWindow:
        engine = self._engine_at(start_s)
        seen: list[WindowMetrics] = []

        def note(metrics: WindowMetrics) -> bool:
            seen.append(metrics)
            return False

        begin_s = engine.now()
        metrics = engine.run_window(end_s - begin_s, note if beginnings else None)
        requests = engine.requests(begin_s, end_s)
        parts = without_groups(metrics, requests, begin_s, end_s, self._settings)
        return ReferenceWindow(metrics, parts, tuple(seen))

    def _engine_at(self, moment_s: float) -> Engine:
        """The engine, having served the trace up to a moment."""
        if self._trace is None:
            raise ValueError("reference: call reset with a trace first")
        if self._engine is None:
            self._engine = self._build_engine()
            self._engine.install(self._policy)
        if self._served != self._digest or self._engine.now() > moment_s + EPSILON_S:
            self._engine.reset(self._trace)
            self._served = self._digest
        if self._engine.now() < moment_s - EPSILON_S:
            self._engine.run_window(moment_s - self._engine.now())
        return self._engine
