"""Many policies on many traces at once, over threads: compiled code runs without Python's lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.compiled.engine import CompiledEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.policy.policy import Policy
from ewsjf_env.workload.trace import Trace


def play_many(
    policies: Sequence[Policy],
    traces: Sequence[Trace],
    windows_s: Sequence[float],
    config: SimulatedConfig | None = None,
    latency: LatencyModel | None = None,
    threads: int | None = None,
) -> list[list[list[WindowMetrics]]]:
    """Metrics of every window of every trace under every policy: [policy][trace][window].

    Args:
        policies: each serves each trace from its beginning.
        traces: the traffic.
        windows_s: lengths of the windows of a trace, one after another, > 0.
        config: of the engines.
        latency: of the engines; None: as `config` says.
        threads: that play at the same time; None: as many as there are cores.

    Raises:
        ConfigError: as for one engine, or nothing to play.
    """
    config = config or SimulatedConfig()
    latency = latency or LatencyModel.load(config.latency)
    for name, given in (("policies", policies), ("traces", traces), ("windows_s", windows_s)):
        if not given:
            raise ConfigError(f"{name}: empty, nothing to play")
    threads = threads or os.cpu_count() or 1
    check_range("threads", threads, 1)

    own = threading.local()  # each thread has an engine

    def play(policy: Policy, trace: Trace) -> list[WindowMetrics]:
        engine: CompiledEngine | None = getattr(own, "engine", None)
        if engine is None:
            engine = own.engine = CompiledEngine(config, latency)
        engine.install(policy)
        engine.reset(trace)
        return [engine.run_window(duration_s) for duration_s in windows_s]

    jobs = [(policy, trace) for policy in policies for trace in traces]
    first = play(*jobs[0])  # compiles once, not in every thread
    with ThreadPoolExecutor(threads) as pool:
        played = [first, *pool.map(lambda job: play(*job), jobs[1:])]
    return [played[i : i + len(traces)] for i in range(0, len(played), len(traces))]
