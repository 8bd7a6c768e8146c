"""The engine boundary: what every engine promises to the environment and to the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ewsjf_env.engine.simulated.latency import LatencyModel
    from ewsjf_env.measure.records import RequestRecord, WindowMetrics
    from ewsjf_env.measure.requests import Requests
    from ewsjf_env.policy.policy import Policy
    from ewsjf_env.workload.trace import Trace

ShouldAbort = Callable[["WindowMetrics"], bool]


class EngineError(RuntimeError):
    """The engine cannot go on: it is closed, has no traffic, or its scheduler is stuck."""


@runtime_checkable
class OutlivesTuner(Protocol):
    """An engine that goes on serving when its tuner is gone."""

    def trust(self, parameters: Mapping[str, object]) -> None:
        """Values of some parameters under which it may go on; until then the installed policy's.

        Raises:
            ConfigError: for an unknown parameter or an illegal value.
        """
        ...


@runtime_checkable
class Engine(Protocol):
    """Serves a trace under a policy and measures it, window by window.

    The contract, the same for every engine:

    * Time is `now()`: seconds on the engine's own clock, virtual or monotonic, 0 at `reset`.
    * Load is open loop: requests arrive at trace time, whatever the engine has finished.
    * `reset` drops all requests and starts a trace; a policy stays installed over resets.
    * A policy change takes effect at the next scheduler step; requests stay where they are, so
      a queue built under one policy is served under the next (discard a settle window).
    * `run_window` blocks until `now()` has advanced by the duration, or until `should_abort`
      said so.  A step that runs over the end of a window carries over into the next one; its
      tokens count where it ends.
    * Percentiles include requests that are still waiting, with their age (see `records`).
    * After an `EngineError` only `reset` and `close` are useful.
    """

    def reset(self, trace: Trace) -> None:
        """Drop all requests, set the clock to 0 and serve `trace`.

        Raises:
            ConfigError: when a request can never be served (naming it and the limit).
        """
        ...

    def install(self, policy: Policy) -> None:
        """Put `policy` in force at the next scheduler step."""
        ...

    def apply(self, parameters: Mapping[str, object]) -> Mapping[str, object]:
        """Change some parameters of the installed policy; return all values really in force.

        A server may round, clamp or lack a parameter: credit a reward to what is returned.

        Raises:
            ConfigError: for an unknown parameter or an illegal value.
        """
        ...

    def run_window(
        self, duration_s: float, should_abort: ShouldAbort | None = None
    ) -> WindowMetrics:
        """Serve for `duration_s` > 0 seconds and return the metrics of that time.

        Args:
            duration_s: length of the window.
            should_abort: called about once a second with the metrics so far; True ends the
                window there.
        """
        ...

    def records(self) -> list[RequestRecord]:
        """All requests that have arrived since `reset`, in order of arrival."""
        ...

    def requests(self, start_s: float, end_s: float) -> Requests:
        """Those that arrived before `end_s` and had not finished before `start_s`, as columns."""
        ...

    def cuts(self) -> tuple[int, ...]:
        """Upper prompt lengths in tokens of all queues in force but the last; () for one."""
        ...

    def prefill_cost_s(self, prompt_tokens: int) -> float:
        """C(b): seconds > 0 that a prompt of b tokens takes alone on the machine."""
        ...

    def now(self) -> float:
        """Seconds on the engine's own clock; never goes back between two resets."""
        ...

    def close(self) -> None:
        """Free everything; may be called more than once."""
        ...


class VirtualEngine(Engine, Protocol):
    """An engine whose seconds are computed: the same every time, and as fast as the machine can."""

    latency: LatencyModel
    kv_blocks: int

    @property
    def capped(self) -> dict[str, int]:
        """`capped_prompts` and `capped_outputs`: how many of the trace were shortened to fit."""
        ...

    def drain(self, max_s: float = ...) -> WindowMetrics:
        """Drop what has not arrived yet, serve until all is done, and measure from time 0.

        Args:
            max_s: at most this many further seconds.
        """
        ...

    def measure_capacity(self, backlog: Trace) -> float:
        """Requests/s that first come first served sustains on lengths that all arrive at 0.

        Raises:
            ConfigError: too few requests.
        """
        ...
