"""The grid of fidelity: both engines in virtual time on every order, traffic, load and machine.

One result is one setting of the engine on one traffic at one load, under all its policies; results
are kept in a store, so that an interrupted grid goes on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.core.progress import Progress
from agents.core.store import Key, Result, Store, key_of
from agents.experiments.capacity.limit import CAPACITY_REQUESTS
from agents.experiments.engines import cached_engine, engine_content
from agents.experiments.source import Source
from ewsjf_env.config import ConfigError, to_dict
from ewsjf_env.engine.compiled.fidelity import FidelityCase, compare_engines
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.preset import load_engine, preset_engine
from ewsjf_env.measure.service import ServiceLevel
from ewsjf_env.policy.policy import parse_policies
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.scheduling.tenants import TenantSettings
from ewsjf_env.seeds import CAPACITY, JUDGED
from ewsjf_env.workload import Workload

LOADS = (0.7, 1.0, 1.3, 1.85)
"""Of the capacity under first come, first served."""
SYNTHETIC = (
    *("bursty", "documents", "long_outputs", "mixed", "paper_mix", "shifting_mix"),
    *("training_mix", "two_tenants"),
)
RECORDED = (
    *("azure2023_conv_a.csv.gz", "azure2023_code_a.csv.gz"),
    *("mooncake_conversation_a.csv.gz", "servegen_mlarge_a.csv.gz"),
)
MOST_REQUESTS = 200  # in a window: a fast machine takes as long to simulate for each request
DEPTHS = {"asynchronous": True, "synchronous": False}

_ALL = ",".join(ORDERS)
_SHAPED = ",".join(
    f"{order}(prefill_share={share};yield_share={give})"
    for order in ("fcfs", "hrrn", "ewsjf", "boost")
    for share, give in ((0.25, 0), (0.5, 0.9), (1, 0.5))
)
_TIMED = ",".join(
    f"{order}(step_s={step_s};yield_share={give})"
    for order in ("fcfs", "hrrn", "ewsjf", "boost")
    for step_s, give in ((0.02, 0), (0.05, 0.9), (0.2, 0.5))
)
_PARTITIONED = "ewsjf,ewsjf_normalised,ewsjf_paper,ewsjf_authors,ewsjf_hrrn"


@dataclass(frozen=True)
class Row:
    """Settings that are compared apart.

    Attributes:
        name: of the row in results.
        policies: names, see `parse_policies`.
        changes: of the engine's settings.
        traffic: of which; empty: all.
        factor: length of a window over that of the grid.
    """

    name: str
    policies: str
    changes: tuple[tuple[str, Any], ...] = ()
    traffic: tuple[str, ...] = ()
    factor: float = 1.0


ROWS = (
    Row("orders", _ALL),
    Row("step shaping", _SHAPED),
    Row("steps by time", _TIMED),
    Row(
        "prefix caching",
        "fcfs,spf,residual_sjf,hrrn,ewsjf,ewsjf(w_cached=1)",
        (("prefix_caching", True),),
        ("mooncake_conversation_a", "paper_mix"),
    ),
    Row(
        "tenants",
        "fcfs,hrrn,ewsjf,ewsjf(overdue_share=0.3),random",
        (("tenants", TenantSettings(by="priority")),),
        ("two_tenants", "paper_mix"),
    ),
    Row("re-partition", _PARTITIONED, (), ("paper_mix", "shifting_mix", "bursty"), factor=8.0),
    Row(
        "service levels",
        "edf,edf_late,sjf_late,fcfs(late=last),hrrn(late=last;late_share=0.3),"
        "ewsjf(late=last;step_s=0.05;yield_share=0.9;kv_reserve=0.03)",
        (("service_levels", ServiceLevel(0.25, 5.0, 0.05)),),
    ),
    Row(
        "memory gate",
        "fcfs(kv_reserve=0.03),hrrn(kv_reserve=0.03),ewsjf(kv_reserve=0.2)",
        (("kv_blocks", 1400),),
        ("paper_mix", "mixed"),
    ),
    Row("stock scheduler", "fcfs", (("scheduler", "stock"),)),
    Row("small cache", "fcfs,hrrn,ewsjf", (("kv_blocks", 1400),), ("paper_mix", "mixed")),
)


@dataclass(frozen=True)
class Setting:
    """One result of the grid."""

    row: Row
    machine: str
    depth: str
    source: Source
    traffic: str
    load: float
    duration_s: float
    seed: int
    engine: SimulatedConfig


def machines() -> dict[str, SimulatedConfig]:
    """The three presets under vLLM's own budgets, and the model that was fitted to a machine."""
    presets = ("llama2-13b_a100-80g", "llama3-8b_h100", "qwen2.5-7b_h200")
    return {name: preset_engine(name) for name in presets} | {"fitted_h200": load_engine("h200")}


def settings_of(
    traces: Path | None, duration_s: float, seed: int, rows: Sequence[Row] = ROWS
) -> list[Setting]:
    """All settings of the grid.

    Args:
        traces: folder of the recordings; None: synthetic traffic alone.
        duration_s: of a window.
        seed: of the drawn traces, from 0.
        rows: what is compared.
    """
    sources = {name: Source(name) for name in SYNTHETIC}
    if traces is not None:
        recorded = {name.partition(".")[0]: str(traces / name) for name in RECORDED}
        sources |= {name: Source(path, is_trace=True) for name, path in recorded.items()}
    found = []
    for row in rows:
        for machine, config in machines().items():
            for depth, ahead in DEPTHS.items():
                changes = {**dict(row.changes), "async_scheduling": ahead}
                engine = dataclasses.replace(config, **changes)
                for traffic, source in sources.items():
                    if row.traffic and traffic not in row.traffic:
                        continue
                    found += [
                        Setting(row, machine, depth, source, traffic, load,
                                row.factor * duration_s, seed, engine)
                        for load in LOADS
                    ]  # fmt: skip
    return found


def play_grid(
    settings: Iterable[Setting], out: Path, workers: int, progress: Progress
) -> tuple[list[Result], dict[Key, str]]:
    """All results, of settings played now or before, and the reasons of those that failed."""
    tasks = {_key(setting): functools.partial(play_setting, setting) for setting in settings}
    found, failures = Store(out / "fidelity").get_all(tasks, workers, progress)
    return list(found.values()), failures


def play_setting(setting: Setting) -> Result:
    """Both engines under all policies of a setting."""
    workload, config = setting.source.load(), setting.engine
    rate = setting.load * _capacity(workload, config)
    duration_s = min(setting.duration_s, setting.row.factor * MOST_REQUESTS / rate)
    trace = workload.draw(JUDGED.start + setting.seed, duration_s, rate)
    latency = cached_engine(config).latency
    policies = parse_policies(setting.row.policies)
    cases = [
        compare_engines(config, latency, policy, trace, duration_s, setting.seed)
        for policy in (policies if len(trace) else ())
    ]
    return {
        "row": setting.row.name,
        "machine": setting.machine,
        "depth": setting.depth,
        "traffic": setting.traffic,
        "load": setting.load,
        "cases": [case.to_dict() for case in cases],
    }


def _capacity(workload: Workload, config: SimulatedConfig) -> float:
    engine = cached_engine(dataclasses.replace(config, scheduler="stock", tenants=None))
    for count in (*CAPACITY_REQUESTS, 4 * CAPACITY_REQUESTS[-1]):  # more where many run at once
        try:
            return engine.measure_capacity(workload.draw_backlog(CAPACITY.start, count))
        except ConfigError:
            continue
    return engine.measure_capacity(workload.draw_backlog(CAPACITY.start, 20_000))


def _key(setting: Setting) -> Key:
    content = [to_dict(setting), engine_content(setting.engine)]
    return key_of(content, setting.row.name, setting.machine, setting.traffic)


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """Sums by row and by each side of the grid, and every case that differs."""
    cases = [(result, case) for result in results for case in result["cases"]]
    sides = ("machine", "depth", "traffic", "load")
    by_row: dict[str, list[dict[str, Any]]] = {}
    for result, case in cases:
        by_row.setdefault(result["row"], []).append({**case, **{s: result[s] for s in sides}})
    return {
        "total": _sums([case for _, case in cases]),
        "rows": {name: _sums(found) for name, found in by_row.items()},
        "orders": {side: _split(by_row.get("orders", []), side) for side in ("policy", *sides)},
        "differing": [
            {**{s: result[s] for s in ("row", *sides)}, **case}
            for result, case in cases
            if case["differing"]
        ],
    }


def _split(cases: Sequence[dict[str, Any]], side: str) -> dict[str, dict[str, int]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(str(case[side]), []).append(case)
    return {name: _sums(found) for name, found in sorted(groups.items())}


def _sums(cases: Sequence[dict[str, Any]]) -> dict[str, int]:
    names = [f.name for f in dataclasses.fields(FidelityCase) if f.type == "int"]
    kept = [name for name in names if name != "seed"]
    return {"cases": len(cases)} | {name: sum(case[name] for case in cases) for name in kept}
