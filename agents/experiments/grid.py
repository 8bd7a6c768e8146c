"""Which runs make an evaluation, and at which rates? The grid, capacities, and keys of results.

The name of a result file ends in a hash of everything that determines it, so that an
interrupted evaluation resumes from the finished files (`runs.py`) and a changed setting never
mixes with old results.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from agents.core.files import write_json
from agents.experiments.jobs import Job, Progress, Source, cached_engine
from ewsjf_env import __version__
from ewsjf_env.config import ConfigError, check_range, to_dict
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.trace_requests import TraceRequests
from ewsjf_env.policy.policy import Policy
from ewsjf_env.workload import Trace, Workload
from ewsjf_env.workload.replay import TraceWorkload

CAPACITY_SEED = 1_000_003  # the backlog that measures capacity shares no draw with any run
CAPACITY_REQUESTS = (600, 2400)  # first try, and when that many run at once
RECORD_VERSION = 2
MAX_SEEDS = 10_000


@dataclass(frozen=True)
class Plan:
    """The grid: policies x sources x (loads or rates) x seeds.

    Attributes:
        loads: fractions of the measured FCFS capacity, > 0; or none when rates are given.
        rates_per_s: arrival rates, > 0; or none when loads are given.
        seeds: number of traces per rate, at most 10,000; a seed is the same trace for every
            policy.
        duration_s: length of the fixed window.
        engine: what is simulated.
        first_seed: the seeds are this one and those that follow.
        recorded: also at the rate of the recording; its load is told in the results.
    """

    policies: tuple[Policy, ...]
    sources: tuple[Source, ...]
    loads: tuple[float, ...]
    rates_per_s: tuple[float, ...]
    seeds: int
    duration_s: float
    engine: SimulatedConfig
    first_seed: int = 0
    recorded: bool = False

    def __post_init__(self) -> None:
        if (bool(self.loads) or self.recorded) == bool(self.rates_per_s):
            raise ConfigError("--load, --rate: give exactly one of them")
        for name in ("loads", "rates_per_s"):
            for value in getattr(self, name):
                check_range({"loads": "--load"}.get(name, "--rate"), value, 0.0, low_open=True)
        check_range("--seeds", self.seeds, 1, MAX_SEEDS)
        check_range("--duration", self.duration_s, 0.0, low_open=True)
        if not self.policies:
            raise ConfigError("--policies: the list is empty")
        if not self.sources:
            raise ConfigError("--workload, --trace: give at least one of them")

    @property
    def runs(self) -> int:
        """Number of runs."""
        points = len(self.loads) + self.recorded or len(self.rates_per_s)
        return len(self.policies) * len(self.sources) * points * self.seeds

    def workloads(self) -> dict[str, tuple[Source, Workload]]:
        """Read all sources; by name.

        Raises:
            ConfigError: a bad file, or two workloads of one name.
        """
        found: dict[str, tuple[Source, Workload]] = {}
        for source in self.sources:
            workload = source.load()
            if workload.name in found:
                raise ConfigError(
                    f"--workload, --trace: {workload.name!r} is the name of both "
                    f"{found[workload.name][0].path} and {source.path}; a name may occur once"
                )
            found[workload.name] = source, workload
        return found


def measure_capacities(plan: Plan, out: Path, jobs: int, progress: Progress) -> dict[str, float]:
    """FCFS capacity in requests/s by workload name, measured once and kept in `out/capacity`.

    Args:
        plan: whose workloads are measured.
        out: folder of the evaluation.
        jobs: worker processes.
        progress: wraps the names of workloads as they are done, with their number.

    Raises:
        ConfigError: a request that does not fit, or lengths of which no steady rate is found.
        EngineError: the engine failed.
    """
    folder = out / "capacity"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, (source, workload) in plan.workloads().items():
        backlog = workload.draw_backlog(CAPACITY_SEED, CAPACITY_REQUESTS[0])
        _check_servable(backlog, plan.engine)
        content = [backlog.digest(), *_engine_content(plan.engine)]
        files[name] = source, folder / f"{_slug(name)}-{_hash(content)}.json"
    todo = [name for name, (_, path) in files.items() if not path.exists()]
    tasks = (delayed(_measure_capacity)(files[name][0], plan.engine) for name in todo)
    pool = Parallel(n_jobs=min(jobs, max(1, len(todo))), return_as="generator_unordered")

    def kept() -> Iterator[str]:
        for content in pool(tasks):
            write_json(files[content["workload"]][1], content)
            yield content["workload"]

    try:
        for _ in progress(kept(), len(todo)) if todo else ():
            pass
    except TerminatedWorkerError:
        raise EngineError("measuring capacity: a worker process was killed") from None
    return {
        name: float(json.loads(path.read_text(encoding="utf-8"))["requests_per_s"])
        for name, (_, path) in files.items()
    }


def make_jobs(plan: Plan, capacities: dict[str, float]) -> list[Job]:
    """All runs, in an order that draws each trace once: source, rate, seed, policy.

    Raises:
        ConfigError: a draw without requests, or with one that can never be served.
    """
    jobs = []
    for name, (source, workload) in plan.workloads().items():
        points: list[tuple[float | None, float]] = [(x, x * capacities[name]) for x in plan.loads]
        points += [(None, rate) for rate in plan.rates_per_s]
        if plan.recorded:
            own = recorded_rate_per_s(workload)
            points.insert(0, (round(own / capacities[name], 3), own))
        for load, rate in points:
            for seed in range(plan.first_seed, plan.first_seed + plan.seeds):
                trace = workload.draw(seed, plan.duration_s, rate)
                _check_servable(trace, plan.engine)
                for policy in plan.policies:
                    key = _key(policy, name, load, rate, seed, trace.digest(), plan)
                    jobs.append(
                        Job(key, policy, source, name, load, rate, seed,
                            plan.duration_s, plan.engine)
                    )  # fmt: skip
    return jobs


def recorded_rate_per_s(workload: Workload) -> float:
    """The rate at which a traffic was recorded; ConfigError for one that is no recording."""
    if not isinstance(workload, TraceWorkload):
        raise ConfigError(
            f"--load: recorded: {workload.name} has no times of its own; give a load or --rate"
        )
    return workload.native_rate_per_s


def _check_servable(trace: Trace, config: SimulatedConfig) -> None:
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


def _measure_capacity(source: Source, config: SimulatedConfig) -> dict[str, Any]:
    workload, engine = source.load(), cached_engine(config)
    few, many = CAPACITY_REQUESTS
    try:
        count, value = few, engine.measure_capacity(workload.draw_backlog(CAPACITY_SEED, few))
    except ConfigError:  # too many run at once for so few
        count = many
        try:
            value = engine.measure_capacity(workload.draw_backlog(CAPACITY_SEED, many))
        except ConfigError as error:
            raise ConfigError(
                f"{workload.name}: FCFS capacity cannot be measured ({error}); lower max_num_seqs "
                "in the file of --engine, or give --rate instead of --load"
            ) from None
    return {
        "workload": workload.name,
        "seed": CAPACITY_SEED,
        "requests": count,
        "requests_per_s": value,
        "engine": to_dict(config),
        "latency_hash": engine.latency.content_hash,
    }


def _key(
    policy: Policy,
    workload: str,
    load: float | None,
    rate: float,
    seed: int,
    digest: str,
    plan: Plan,
) -> str:
    content = [
        RECORD_VERSION,
        {k: v for k, v in policy.to_dict().items() if k != "provenance"},
        workload,
        digest,
        plan.duration_s,
        load,
        rate,
        *_engine_content(plan.engine),
    ]
    point = f"rate{rate:g}" if load is None else f"load{load:g}"
    parts = (workload, point, f"seed{seed}", policy.name)
    return "__".join(_slug(part) for part in parts) + f"__{_hash(content)}"


@functools.lru_cache(maxsize=8)
def _engine_content(config: SimulatedConfig) -> tuple[object, ...]:
    """What a result depends on besides traffic and policy."""
    latency = cached_engine(config).latency.content_hash
    content = to_dict(config)
    if config.tenants is None:  # settings that are off are left out: results from before hold
        del content["tenants"]
    if config.hint_correlation is None:
        del content["hint_correlation"], content["hint_seed"]
    if not config.long_prefill_token_threshold:
        del content["long_prefill_token_threshold"]
    return content, latency, version("vllm"), __version__


def _hash(content: object) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=+-]+", "_", text).strip("_")[:60]
