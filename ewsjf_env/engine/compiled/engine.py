"""The engine `compiled`: what `simulated` serves, request for request, a thousand times faster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.base import EngineError, ShouldAbort
from ewsjf_env.engine.compiled.core import CompiledCore, Noise
from ewsjf_env.engine.compiled.kernel.state import LIMITS, Floats, Integers, new_record, new_state
from ewsjf_env.engine.compiled.metrics import prefill_costs_s
from ewsjf_env.engine.compiled.policy import check_policy
from ewsjf_env.engine.compiled.prefixes import prefix_numbers
from ewsjf_env.engine.compiled.settings import check_settings
from ewsjf_env.engine.simulated.capacity import steady_rate_per_s
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.simulated.trace_requests import TraceRequests
from ewsjf_env.engine.simulated.virtual_core import Totals
from ewsjf_env.measure.records import (
    RequestRecord,
    WindowCounters,
    WindowMetrics,
    measure_window,
)
from ewsjf_env.measure.requests import Requests
from ewsjf_env.policy.policy import default_policy
from ewsjf_env.policy.policy_queue import PolicyQueue
from ewsjf_env.scheduling.cost import CostPrior, PrefillCostModel
from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.partition.repartition import InlineExecutor

if TYPE_CHECKING:
    from ewsjf_env.policy.policy import Policy
    from ewsjf_env.workload.trace import Trace

ABORT_CHECK_S = 1.0
_NOISE_BATCH = 4096  # as `simulated` draws them


class CompiledEngine:
    """An `Engine` (see `engine/base.py`) in virtual time, compiled.

    First tokens, finishes and preemptions of every request are those of `SimulatedEngine`, whose
    settings it takes.  What it cannot do it refuses with a ConfigError that names the field.
    """

    def __init__(
        self, config: SimulatedConfig | None = None, latency: LatencyModel | None = None
    ) -> None:
        """Load the latency model, unless one is given; nothing is compiled yet.

        Raises:
            ConfigError: a setting that is not compiled.
        """
        self.config = config or SimulatedConfig()
        check_settings(self.config)
        self.latency = latency or LatencyModel.load(self.config.latency)
        self.kv_blocks = self.config.kv_blocks or self.latency.machine.kv_blocks(
            self.config.block_tokens, self.config.gpu_memory_utilization
        )
        self._policy: Policy | None = None
        self._core: CompiledCore | None = None
        self._requests: TraceRequests | None = None
        self._costs_s: Floats = np.zeros(0)  # C(b) of each request
        self._prior: CostPrior | None = None
        self._start_policy = default_policy()  # in force until one is installed
        self._closed = False

    def reset(self, trace: Trace) -> None:
        """See `Engine.reset`; prompts and outputs beyond `max_model_len` are capped."""
        self._check_open()
        core = self._build_core(trace, self.config.scheduler == "ewsjf")
        if core.queue is not None and self._policy is not None:
            core.install(self._policy)
        budget_tokens = self.config.max_num_batched_tokens
        self._costs_s = prefill_costs_s(self.latency, core.state.requests["prompt"], budget_tokens)
        self._core = core

    def install(self, policy: Policy) -> None:
        """See `Engine.install`.

        Raises:
            ConfigError: a policy that is not compiled, or the stock scheduler, which has none.
        """
        self._check_open()
        if self.config.scheduler == "stock":
            raise ConfigError(
                f"scheduler: 'stock' cannot serve policy {policy.name!r}; use 'ewsjf'"
            )
        check_policy(policy)
        if self._core is not None:
            self._core.install(policy)
        self._policy = policy

    def apply(self, parameters: Mapping[str, object]) -> Mapping[str, object]:
        """See `Engine.apply`; values that are in force already change nothing.

        Raises:
            EngineError: no policy is installed.
        """
        policy = self._policy
        if policy is None:
            raise EngineError("apply: no policy is installed; call install first")
        if self._core is not None and self._core.queue is not None:
            policy = self._core.queue.policy
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
        """Drop what has not arrived yet and serve until all is done, at most `max_s` more.

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
        """See `Engine.requests`: straight from the arrays of the state."""
        core = self._running_core()
        rows = core.state.requests[: core.arrived()]
        seen = (rows["arrival_s"] < end_s) & ~(rows["finish_s"] < start_s)
        places = np.flatnonzero(seen)
        chosen = rows[places]
        return Requests(
            position=places,
            arrival_s=chosen["arrival_s"],
            prompt_tokens=chosen["prompt"],
            generated_tokens=chosen["generated"],
            first_token_s=chosen["first_token_s"],
            finish_s=chosen["finish_s"],
            cost_s=self._costs_s[places],
        )

    def cuts(self) -> tuple[int, ...]:
        """See `Engine.cuts`: of the partition that is in force by now."""
        queue = self._running_core().queue
        return () if queue is None else tuple(queue.policy.partition.cuts)

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
        self._running_core()
        assert self._requests is not None
        return {
            "capped_prompts": self._requests.capped_prompts,
            "capped_outputs": self._requests.capped_outputs,
        }

    @property
    def core(self) -> CompiledCore:
        """The state of the current trace, to look at."""
        return self._running_core()

    def measure_capacity(self, backlog: Trace) -> float:
        """Requests/s that first come first served sustains, see `SimulatedEngine`."""
        self._check_open()
        if len(backlog) and float(backlog.arrival_s[-1]) > 0:
            last_s = float(backlog.arrival_s[-1])
            raise ConfigError(f"backlog: arrivals until {last_s:g} s, expected all at 0")
        kept = self._requests
        core = self._build_core(backlog, False)
        self._requests = kept
        core.advance(math.inf, until_idle=True)
        return steady_rate_per_s(core.records())

    def _build_core(self, trace: Trace, ordered: bool) -> CompiledCore:
        config = self.config
        requests = TraceRequests(
            trace, config.max_model_len, None, config.hint_correlation, config.hint_seed
        )
        # vLLM keeps one block as the null block.
        requests.check_fits((self.kv_blocks - 1) * config.block_tokens)
        self._requests = requests
        state = new_state(
            self._limits(ordered),
            trace.arrival_s,
            requests.prompt,
            requests.output,
            trace.priority,
            _hints(requests, config.max_model_len),
            self._prefixes(trace, requests),
        )
        return CompiledCore(
            state,
            self._queue() if ordered else None,
            config.scheduler_seed,
            self._noise(trace),
        )

    def _prefixes(
        self, trace: Trace, requests: TraceRequests
    ) -> tuple[Integers, Integers, int] | None:
        if not self.config.prefix_caching:
            return None
        return prefix_numbers(
            requests.prompt, requests.output, trace.block_ids, self.config.block_tokens
        )

    def _queue(self) -> PolicyQueue[Any]:
        """The scheduler's own waiting queue, for policy, cost model and re-partition."""
        config = self.config
        if self._prior is None:
            self._prior = self.latency.cost_prior(config.max_num_batched_tokens)
        return PolicyQueue(
            self._start_policy,
            _no_request,
            PrefillCostModel(self._prior),
            InlineExecutor(),
            block_tokens=config.block_tokens,
            longest_tokens=config.max_model_len,
            seed=config.scheduler_seed,
        )

    def _limits(self, ordered: bool) -> Any:
        config, c = self.config, self.latency.coefficients
        limits = new_record(LIMITS)
        values: dict[str, float] = {
            "budget_tokens": config.max_num_batched_tokens,
            "max_seqs": config.max_num_seqs,
            "chunk_tokens": config.long_prefill_token_threshold,
            "chunked": config.chunked_prefill,
            "block_tokens": config.block_tokens,
            "kv_blocks": self.kv_blocks,
            "depth": 2 if config.async_scheduling else 1,
            "prefix_caching": config.prefix_caching,
            "learns": ordered,
            "captured_tokens": c.captured_tokens,
            "noisy": config.noise_sigma > 0.0,
            "longest_tokens": config.max_model_len,
            "overhead_s": c.overhead_s,
            "weights_s": c.weights_s,
            "linear_s": c.linear_s_per_token,
            "attention_s": c.attention_s_per_pair,
            "kv_read_s": c.kv_read_s_per_token,
            "launch_s": c.launch_s,
        }
        for name, value in values.items():
            limits[name] = value
        return limits

    def _noise(self, trace: Trace) -> Noise | None:
        sigma = self.config.noise_sigma
        if sigma == 0.0:
            return None
        seed = np.random.SeedSequence([self.config.noise_seed, int(trace.digest(), 16)])
        generator = np.random.default_rng(seed)

        def factors() -> Floats:
            z = generator.standard_normal(_NOISE_BATCH)
            # `simulated` takes them from the end of a batch.
            return np.exp(sigma * z - 0.5 * sigma * sigma)[::-1].copy()

        return factors

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
        )
        requests = self.requests(start_s, end_s)
        return measure_window(requests, counters, start_s, end_s, self.config.metrics)

    def _running_core(self) -> CompiledCore:
        self._check_open()
        if self._core is None:
            raise EngineError("no traffic: call reset with a trace first")
        return self._core

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")


def _hints(requests: TraceRequests, longest_tokens: int) -> Integers | None:
    if requests.hints is None:
        return None
    return np.minimum(np.array(requests.hints, np.int64), longest_tokens)


def _no_request(request: Any, seq: int) -> Entry:
    raise AssertionError("requests wait in compiled code alone")
