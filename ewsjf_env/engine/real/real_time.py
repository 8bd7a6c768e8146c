"""The common part of engines that measure a running vLLM, where a second takes a second.

`remote.py` and `live.py` differ in how they reach vLLM (`link.py`); all the rest is here.  What a
real server cannot give of the contract in `base.py`:

* Time cannot be stopped.  `now()` is where the last window ended, at `reset` 0, and the next
  window begins there, so windows have no gaps.  Only when more than `max_gap_s` have passed in
  between (a tuner that thinks) does a window begin later, and the time between is not measured.
* Nothing repeats exactly.
* Without load of our own (`load=False`: real users' traffic), `reset` only forgets records.  No
  request is dropped, and neither queues nor caches are emptied.

What the server serves, also when we are gone, is told in `policy_control.py`; `close` leaves it
on what is trusted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.base import EngineError, ShouldAbort
from ewsjf_env.engine.real.background import Background
from ewsjf_env.engine.real.link import Link, Unreachable
from ewsjf_env.engine.real.open_loop import OpenLoop
from ewsjf_env.engine.real.policy_control import PolicyControl
from ewsjf_env.engine.real.server_log import Reading, ServerLog
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.simulated.trace_requests import TraceRequests
from ewsjf_env.measure.records import MetricSettings, RequestRecord, WindowMetrics, aggregate
from ewsjf_env.measure.requests import Requests
from ewsjf_env.policy.policy import Policy
from ewsjf_env.workload.trace import Trace

CHECK_S = 1.0  # between two looks at the server while a window runs
MAX_LAG_S = 0.5  # a sender that is later makes a window inexact
RETRY_S = 0.5
DRAIN_S = 5.0  # for aborted requests of an earlier trace to leave the scheduler
RESTORE_S = 5.0
logger = logging.getLogger(__name__)
_DRAIN_POLL_S = 0.1


@dataclass(frozen=True)
class RealTimeSettings:
    """How a running vLLM is measured.

    Attributes:
        load: send the trace's requests; else watch those that others send.
        latency: preset name or path of a latency JSON file: C(b) comes from it.  A server's own
            estimate moves while it learns, and windows would not compare.
        budget_tokens: of a step, for C(b).
        speed: how many times as fast as that model vLLM is.
        timeout_s: of one question.
        start_timeout_s: how long to wait for a server that does not answer.
        lease_s: of values on trial; 0: they stay.
        max_gap_s: longest time between two windows that counts into the later one.
        metrics: class limits and service levels.
    """

    load: bool = True
    latency: str = "llama2-13b_a100-80g"
    budget_tokens: int = 2048
    speed: float = 1.0
    timeout_s: float = 30.0
    start_timeout_s: float = 120.0
    lease_s: float = 0.0
    max_gap_s: float = 2.0
    metrics: MetricSettings = field(default_factory=MetricSettings)


class RealTimeEngine:
    """An `Engine` (see `engine/base.py`) over a running vLLM; see the module."""

    def __init__(self, make_link: Callable[[], Link], settings: RealTimeSettings) -> None:
        """Nothing is started or contacted before the first `reset` or `apply`.

        Raises:
            ConfigError: an unknown latency model.
        """
        self.settings = settings
        self._latency = LatencyModel.load(settings.latency)
        self._make_link = make_link
        self._background: Background | None = None
        self._link: Link | None = None
        self._longest_tokens = 0
        self._control = PolicyControl(settings.lease_s, keep_partition=not settings.load)
        self._log = ServerLog(keep_records=not settings.load)
        self._load: OpenLoop | None = None
        self._reading: Reading | None = None
        self._scaled = 0  # how often ranks have come or gone
        self._epoch_s = 0.0
        self._edge_s = 0.0
        self._closed = False

    def reset(self, trace: Trace | None) -> None:
        """See `Engine.reset`; the policy is put in force again.

        Waits for a server that does not answer, at most `start_timeout_s`.  With load, requests
        of an earlier trace are aborted; lengths are capped to what the model takes.  Priorities
        of a trace are not sent.

        Args:
            trace: what is sent; without load it is ignored and may be None.
        """
        self._check_open()
        self._stop_load()
        self._reading = None
        self._connect()
        self._control.put_again()
        requests = None
        if self.settings.load:
            if trace is None:
                raise ConfigError("trace: None, but this engine sends the requests itself")
            requests = TraceRequests(trace, self._longest_tokens, None)
            self._drain()
        self._look()
        while self._log.more:
            self._look()
        self._log.begin()
        self._epoch_s, self._edge_s = time.monotonic(), 0.0
        if requests is not None and trace is not None:
            link, salt = self._linked(), secrets.randbits(48)
            self._load = OpenLoop(requests, trace.block_ids, link, self._seconds, salt)
            self._call(self._load.start())
        self._look()

    def install(self, policy: Policy) -> None:
        """See `Engine.install`; its values are trusted.

        Without load, a server that serves the same order already only gets the values: the
        partition that it has learnt from its users stays.
        """
        self._check_open()
        self._control.install(policy)

    def trust(self, parameters: Mapping[str, object]) -> None:
        """Values, of some parameters, that may stay in force without a tuner from now on.

        Raises:
            ConfigError: for an unknown parameter or an illegal value.
        """
        self._control.trust(parameters)

    def apply(self, parameters: Mapping[str, object]) -> Mapping[str, object]:
        """See `Engine.apply`."""
        self._check_open()
        self._control.check_installed("apply")
        if self._control.in_force is None:
            self._connect()
            self._control.put_again()
        return self._control.apply(parameters)

    def run_window(
        self, duration_s: float, should_abort: ShouldAbort | None = None
    ) -> WindowMetrics:
        """See `Engine.run_window`.

        `exact` is False when records were dropped before they could be read, when ranks came or
        went, or when our own clients were more than `MAX_LAG_S` late.

        Raises:
            EngineError: the server is gone or has restarted, somebody else changed the policy, or
                a request was not served.
        """
        check_range("duration_s", duration_s, 0.0, low_open=True)
        self._check_open()
        if self._reading is None:
            raise EngineError("no traffic: call reset with a trace first")
        if self._seconds() - self._edge_s > self.settings.max_gap_s:
            self._edge_s = self._seconds()
            self._look()
        before, start_s, lost = self._reading, self._edge_s, self._log.lost
        scaled = self._scaled
        end_s, checks = start_s + duration_s, 0
        while True:
            checks = max(checks + 1, int(self._seconds() - start_s))
            self._edge_s = min(end_s, start_s + checks * CHECK_S)
            time.sleep(max(0.0, self._edge_s - self._seconds()))
            self._look()
            if self._reading.versions != self._control.versions:
                raise EngineError("somebody else changed the policy, or its lease ran out")
            self._control.renew()
            done = self._edge_s >= end_s
            if not done and should_abort is None:
                continue
            exact = self._log.lost == lost and self._scaled == scaled
            metrics = self._measure(start_s, before, exact)
            if (should_abort is not None and should_abort(metrics)) or done:
                return metrics

    def records(self) -> list[RequestRecord]:
        """See `Engine.records`; up to the end of the last window.

        Without load also requests that were open at `reset`: they have arrived before 0.
        """
        self._check_open()
        if self._load is not None:
            return self._load.records(self._edge_s)
        return self._log.records(self._edge_s)

    def requests(self, start_s: float, end_s: float) -> Requests:
        """See `Engine.requests`."""
        return Requests.of(self.records(), self.prefill_cost_s, start_s, end_s)

    def cuts(self) -> tuple[int, ...]:
        """See `Engine.cuts`; of the first data-parallel rank."""
        return self._reading.cuts if self._reading is not None else ()

    def prefill_cost_s(self, prompt_tokens: int) -> float:
        """See `Engine.prefill_cost_s`: by the latency model."""
        settings = self.settings
        return self._latency.prefill_s(prompt_tokens, settings.budget_tokens) / settings.speed

    def now(self) -> float:
        """See `Engine.now`: where the last window ended."""
        return self._edge_s

    def close(self) -> None:
        """See `Engine.close`; leaves the server on the values that are trusted."""
        if self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(EngineError, ConfigError):
                self._restore()
            with contextlib.suppress(EngineError):
                self._stop_load()
        finally:
            if self._background is not None:
                if self._link is not None:
                    with contextlib.suppress(EngineError):
                        self._background.call(self._link.close(), self.settings.timeout_s)
                self._background.close()

    # -- the connection ------------------------------------------------------------------------

    def _connect(self) -> None:
        """Reach the server, waiting for it."""
        if self._background is None:
            self._background = Background("ewsjf-engine")
        if self._link is None:
            self._link = self._make_link()
        deadline_s = time.monotonic() + self.settings.start_timeout_s
        while True:
            try:
                self._longest_tokens = self._background.call(self._link.open())
                break
            except Unreachable:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(RETRY_S)

        before = self._control.instance
        self._control.connect(self._link, self._call)
        if self._control.instance != before:
            self._log = ServerLog(keep_records=not self.settings.load)

    def _linked(self) -> Link:
        assert self._link is not None, "connected before"
        return self._link

    def _call(self, work: Any) -> Any:
        assert self._background is not None, "connected before"
        return self._background.call(work, self.settings.timeout_s)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")

    def _restore(self) -> None:
        """The server goes on without us."""
        change = self._control.leave()
        if change is not None and self._background is not None:
            self._background.call(self._linked().leave(change), RESTORE_S)

    # -- measuring -----------------------------------------------------------------------------

    def _seconds(self) -> float:
        """The real clock: seconds since `reset`."""
        return time.monotonic() - self._epoch_s

    def _look(self) -> None:
        """Read the server's counters, and its records where they are needed."""
        if self._load is not None and self._load.failure is not None:
            raise EngineError(self._load.failure)
        while True:
            asked_s = self._seconds()
            answer = self._call(self._linked().window(self._log.cursor, not self.settings.load))
            self._reading = self._log.take(answer, asked_s, self._seconds())
            if not self._log.more:
                break
        ranks, known = self._reading.ranks, len(self._control.versions)
        if ranks != known:
            logger.warning("the server has %d ranks instead of %d: the run goes on", ranks, known)
            self._scaled += 1
            self._control.follow_ranks()
            self._look()

    def _measure(self, start_s: float, before: Reading, exact: bool) -> WindowMetrics:
        assert self._reading is not None
        end_s = self._edge_s
        counters = self._reading.since(before, end_s - start_s)
        settings = self.settings.metrics
        metrics = aggregate(self.records(), counters, start_s, end_s, self.prefill_cost_s, settings)
        if self._load is not None:
            exact = exact and self._load.worst_lag_s(start_s, end_s) <= MAX_LAG_S
        return metrics if exact else dataclasses.replace(metrics, exact=False)

    def _stop_load(self) -> None:
        if self._load is not None:
            load, self._load = self._load, None
            self._call(load.stop())

    def _drain(self) -> None:
        """Wait until aborted requests have left the scheduler; others' may stay."""
        deadline_s = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline_s:
            answer = self._call(self._linked().window(self._log.cursor, True))
            if not any(rank["open"] for rank in answer["ranks"]):
                return
            time.sleep(_DRAIN_POLL_S)
