"""The real vLLM scheduler and KV-cache manager, serving a trace on a virtual clock.

What is real: scheduler class, admission, chunking, preemption, prefix cache, block accounting.
What is modelled: the time of a step (`latency.py`) and the tokens (`requests.py`).  Nothing
reads the wall clock or an unseeded random source, so a run repeats to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.base import EngineError, ShouldAbort
from ewsjf_env.engine.simulated.capacity import steady_rate_per_s
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.simulated.trace_requests import TraceRequests
from ewsjf_env.engine.simulated.virtual_core import StepTime, Totals, VirtualCore
from ewsjf_env.engine.simulated.vllm_config import (
    VllmSettings,
    block_hasher,
    build_scheduler,
    build_setup,
    ewsjf_scheduler_class,
    stock_scheduler_class,
)
from ewsjf_env.measure.records import RequestRecord, WindowCounters, WindowMetrics, aggregate
from ewsjf_env.measure.requests import Requests

if TYPE_CHECKING:
    from ewsjf_env.policy.policy import Policy
    from ewsjf_env.workload.trace import Trace

ABORT_CHECK_S = 1.0
_NOISE_BATCH = 4096


class SimulatedEngine:
    """An `Engine` (see `engine/base.py`) in virtual time.

    The virtual clock is 0 at `reset`; an idle engine jumps to the next arrival.  `run_window`
    advances it by exactly the duration.  Windows are half-open: an event at the very end of
    one belongs to the next.  All methods are deterministic, except for the metric
    `scheduler_us_per_step`, which is None unless `measure_overhead` is set.
    """

    def __init__(
        self, config: SimulatedConfig | None = None, latency: LatencyModel | None = None
    ) -> None:
        """Load the latency model, unless one is given; vLLM is first needed by `reset`."""
        self.config = config or SimulatedConfig()
        self.latency = latency or LatencyModel.load(self.config.latency)
        self.kv_blocks = self.config.kv_blocks or self.latency.machine.kv_blocks(
            self.config.block_tokens, self.config.gpu_memory_utilization
        )
        self._policy: Policy | None = None
        self._core: VirtualCore | None = None
        self._closed = False

    def reset(self, trace: Trace) -> None:
        """See `Engine.reset`; the installed policy is kept, the prefix cache is empty.

        Prompts and outputs that exceed `max_model_len` are capped, see `capped`.
        """
        self._check_open()
        core = self._build_core(trace, self._scheduler_class(), self.config.measure_overhead)
        ewsjf = getattr(core.scheduler, "ewsjf", None)
        if ewsjf is not None:
            ewsjf.bind_clock(core.now, _arrival_s)
            ewsjf.set_cost_prior(self.latency.cost_prior(self.config.max_num_batched_tokens))
            if self._policy is not None:
                ewsjf.install(self._policy)
        self._core = core

    def install(self, policy: Policy) -> None:
        """See `Engine.install`.

        Raises:
            ConfigError: the configuration names the stock scheduler, which has no policy.
        """
        self._check_open()
        if self.config.scheduler == "stock":
            raise ConfigError(
                f"scheduler: 'stock' cannot serve policy {policy.name!r}; use 'ewsjf'"
            )
        self._policy = policy
        if self._core is not None:
            self._core.scheduler.ewsjf.install(policy)

    def apply(self, parameters: Mapping[str, object]) -> Mapping[str, object]:
        """See `Engine.apply`; integers and choices come back as they are in force.

        The partition that the scheduler has learnt meanwhile stays in force.  Values that are in
        force already change nothing: an order keeps what it has learnt of the traffic.

        Raises:
            EngineError: no policy is installed.
        """
        policy = self._policy
        if policy is None:
            raise EngineError("apply: no policy is installed; call install first")
        if self._core is not None:
            policy = self._core.scheduler.waiting.policy
        changed = policy.with_parameters(parameters)
        if changed.parameters != policy.parameters:
            self.install(changed)
        return dict(changed.parameters)

    def run_window(
        self, duration_s: float, should_abort: ShouldAbort | None = None
    ) -> WindowMetrics:
        """See `Engine.run_window`."""
        check_range("duration_s", duration_s, 0.0, low_open=True)
        core = self._running_core()
        start_s, before = core.clock_s, core.totals()
        end_s = start_s + duration_s
        if should_abort is None:
            core.advance(end_s)
            return self._measure(start_s, end_s, before)
        checks = 0
        while core.clock_s < end_s:
            checks += 1
            core.advance(min(end_s, start_s + checks * ABORT_CHECK_S))
            if should_abort(self._measure(start_s, core.clock_s, before)):
                break
        return self._measure(start_s, core.clock_s, before)

    def drain(self, max_s: float = math.inf) -> WindowMetrics:
        """Drop what has not arrived yet and serve until all is done.

        Args:
            max_s: at most this many further seconds.

        Returns:
            Metrics from time 0 to the last finish, or to the end of `max_s`.
        """
        if not max_s > 0:
            raise ConfigError(f"max_s: {max_s!r} is outside (0, inf]")
        core = self._running_core()
        core.stop_arrivals()
        core.advance(core.clock_s + max_s, until_idle=True)
        if core.clock_s <= 0:
            raise EngineError("drain: nothing has been served; run a window first")
        # Windows are half-open: reach just over the last finish, to count it.
        return self._measure(0.0, math.nextafter(core.clock_s, math.inf), Totals())

    def records(self) -> list[RequestRecord]:
        """See `Engine.records`."""
        return self._running_core().records()

    def requests(self, start_s: float, end_s: float) -> Requests:
        """See `Engine.requests`."""
        return Requests.of(self.records(), self.prefill_cost_s, start_s, end_s)

    def cuts(self) -> tuple[int, ...]:
        """See `Engine.cuts`: of the partition that the scheduler serves by now."""
        return tuple(self._scheduler_state().get("cuts", ()))

    def prefill_cost_s(self, prompt_tokens: int) -> float:
        """See `Engine.prefill_cost_s`: by the latency model, without prefix cache."""
        return self.latency.prefill_s(prompt_tokens, self.config.max_num_batched_tokens)

    def now(self) -> float:
        """See `Engine.now`: the virtual clock, 0 before the first `reset`."""
        return self._core.clock_s if self._core is not None else 0.0

    def close(self) -> None:
        """See `Engine.close`."""
        self._core = None
        self._closed = True

    @property
    def capped(self) -> dict[str, int]:
        """How many prompts and outputs of the trace were shortened to `max_model_len`."""
        requests = self._running_core().requests
        return {
            "capped_prompts": requests.capped_prompts,
            "capped_outputs": requests.capped_outputs,
        }

    @property
    def scheduler(self) -> Any:
        """The vLLM scheduler of the current trace, to look at."""
        return self._running_core().scheduler

    def measure_capacity(self, backlog: Trace) -> float:
        """Requests/s that first come first served sustains on this mix of lengths.

        The backlog is served by vLLM's own scheduler, see `capacity.steady_rate_per_s`.  The
        engine's own trace and clock stay as they are.

        Args:
            backlog: all arrivals at 0; several times as many requests as run at once.  The
                sampling error of the mix is about 1 / sqrt(requests).

        Raises:
            ConfigError: too few requests, or they do not all arrive at 0.
        """
        self._check_open()
        if len(backlog) and float(backlog.arrival_s[-1]) > 0:
            last_s = float(backlog.arrival_s[-1])
            raise ConfigError(f"backlog: arrivals until {last_s:g} s, expected all at 0")
        stock = stock_scheduler_class(self.config.async_scheduling)
        core = self._build_core(backlog, stock, measure_overhead=False)
        core.advance(math.inf, until_idle=True)
        return steady_rate_per_s(core.records())

    def _build_core(
        self, trace: Trace, scheduler_class: type[Any], measure_overhead: bool
    ) -> VirtualCore:
        setup = build_setup(self._vllm_settings())
        requests = TraceRequests(
            trace,
            self.config.max_model_len,
            block_hasher(setup),
            self.config.hint_correlation,
            self.config.hint_seed,
        )
        # vLLM keeps one block as the null block.
        requests.check_fits((self.kv_blocks - 1) * self.config.block_tokens)
        return VirtualCore(
            build_scheduler(setup, scheduler_class),
            requests,
            self._step_time(trace),
            setup.concurrent_batches,
            measure_overhead,
        )

    def _vllm_settings(self) -> VllmSettings:
        config, model = self.config, self.latency.machine.model
        return VllmSettings(
            model=model.name,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            block_tokens=config.block_tokens,
            kv_blocks=self.kv_blocks,
            kv_heads=model.kv_heads,
            head_size=model.head_size,
            async_scheduling=config.async_scheduling,
            prefix_caching=config.prefix_caching,
            chunked_prefill=config.chunked_prefill,
            long_prefill_token_threshold=config.long_prefill_token_threshold,
            scheduler_seed=config.scheduler_seed,
            tenants=config.tenants,
            service_levels=config.service_levels,
        )

    def _scheduler_class(self) -> type[Any]:
        choose = {"stock": stock_scheduler_class, "ewsjf": ewsjf_scheduler_class}
        return choose[self.config.scheduler](self.config.async_scheduling)

    def _step_time(self, trace: Trace) -> StepTime:
        if self.config.noise_sigma == 0.0:
            return self.latency.step_s
        seed = [self.config.noise_seed, int(trace.digest(), 16)]
        factor = _lognormal_factors(seed, self.config.noise_sigma)
        return lambda *work: self.latency.step_s(*work) * factor()

    def _measure(self, start_s: float, end_s: float, before: Totals) -> WindowMetrics:
        core = self._running_core()
        added = core.totals() - before
        counters = WindowCounters(
            output_tokens=added.output_tokens,
            prefill_tokens=added.prefill_tokens,
            preemptions=added.preemptions,
            kv_usage_mean=added.kv_usage_s / (end_s - start_s),
            prefix_hit_rate=added.admitted_cached_tokens / added.admitted_prompt_tokens
            if added.admitted_prompt_tokens
            else math.nan,
            queues=len(self.cuts()) + 1,
            scheduler_us_per_step=1e6 * added.scheduler_s / added.steps
            if self.config.measure_overhead and added.steps
            else None,
        )
        records = core.records(since_s=start_s)
        return aggregate(
            records, counters, start_s, end_s, self.prefill_cost_s, self.config.metrics
        )

    def _scheduler_state(self) -> dict[str, Any]:
        """Of our scheduler; the stock one has none."""
        ewsjf = getattr(self._running_core().scheduler, "ewsjf", None)
        return {} if ewsjf is None else dict(ewsjf.state())

    def _running_core(self) -> VirtualCore:
        self._check_open()
        if self._core is None:
            raise EngineError("no traffic: call reset with a trace first")
        return self._core

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")


def _arrival_s(request: Any) -> float:
    """Arrival of a vLLM request on the virtual clock: `requests.py` puts it there."""
    return float(request.arrival_time)


def _lognormal_factors(seed: list[int], sigma: float) -> Callable[[], float]:
    """Draw factors exp(sigma z - sigma^2/2), z standard normal: mean 1, one per call."""
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    drawn: list[float] = []

    def factor() -> float:
        if not drawn:
            z = generator.standard_normal(_NOISE_BATCH)
            drawn.extend(np.exp(sigma * z - 0.5 * sigma * sigma).tolist())
        return drawn.pop()

    return factor
