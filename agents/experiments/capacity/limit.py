"""FCFS capacities of traffics: measured once, and kept beside the runs that refer to them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from agents.core.progress import Progress
from agents.core.store import Result, Store, key_of
from agents.experiments.engines import cached_engine, engine_content
from agents.experiments.source import Source
from ewsjf_env.config import ConfigError, to_dict
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.trace_requests import TraceRequests
from ewsjf_env.seeds import CAPACITY
from ewsjf_env.workload import Trace, Workload

CAPACITY_REQUESTS = (600, 2400)  # first try, and when that many run at once


def measure_capacities(
    traffics: Mapping[str, tuple[Source, Workload]],
    engine: SimulatedConfig,
    out: Path,
    workers: int,
    progress: Progress,
) -> dict[str, float]:
    """FCFS capacity in requests/s by name, measured once and kept in `out/capacity`.

    Args:
        traffics: by name, see `Plan.workloads`.
        engine: what is simulated.
        out: folder of the evaluation.
        workers: processes.
        progress: wraps the traffics as they are done, with their number.

    Raises:
        ConfigError: a request that does not fit, or lengths of which no steady rate is found.
        EngineError: the engine failed, or a worker was killed.
    """
    tasks = {}
    for name, (source, workload) in traffics.items():
        backlog = workload.draw_backlog(CAPACITY.start, CAPACITY_REQUESTS[0])
        check_servable(backlog, engine)
        key = key_of([backlog.digest(), *engine_content(engine)], name)
        tasks[key] = functools.partial(_measure, source, engine)
    found = Store(out / "capacity").every(tasks, workers, progress)
    return {name: float(row["requests_per_s"]) for name, row in zip(traffics, found, strict=True)}


def check_servable(trace: Trace, config: SimulatedConfig) -> None:
    """Refuse what no run could serve, or where every request would be cut to one length."""
    requests = TraceRequests(trace, config.max_model_len, None)
    if len(trace) > 1 and requests.capped_prompts == len(trace):
        raise ConfigError(
            f"{trace.name}: prompt_tokens: all {len(trace)} prompts are longer than "
            f"max_model_len allows ({int(trace.prompt_tokens.min())} and more, expected at most "
            f"{config.max_model_len - 1}); raise it in the file of --engine, or set "
            "max_prompt_tokens in a workload file"
        )
    blocks = cached_engine(config).kv_blocks
    try:
        requests.check_fits((blocks - 1) * config.block_tokens)
    except ConfigError as error:
        raise ConfigError(f"{trace.name}: {error}") from None


def _measure(source: Source, config: SimulatedConfig) -> Result:
    workload, engine = source.load(), cached_engine(config)
    few, many = CAPACITY_REQUESTS
    try:
        count, value = few, engine.measure_capacity(workload.draw_backlog(CAPACITY.start, few))
    except ConfigError:  # too many run at once for so few
        count = many
        try:
            value = engine.measure_capacity(workload.draw_backlog(CAPACITY.start, many))
        except ConfigError as error:
            raise ConfigError(
                f"{workload.name}: FCFS capacity cannot be measured ({error}); lower max_num_seqs "
                "in the file of --engine, or give --rate instead of --load"
            ) from None
    return {
        "workload": workload.name,
        "seed": CAPACITY.start,
        "requests": count,
        "requests_per_s": value,
        "engine": to_dict(config),
        "latency_hash": engine.latency.content_hash,
    }
