"""The stages of a measurement of a machine; each takes the `Measurement` and adds to it.

steps        run steps of all kinds, time them, fit the latency model       (a server with a log)
capacity     FCFS capacity of each traffic, in virtual time with that model
serving      every traffic, load and policy for a while                      (the server proper)
prediction   the same requests in virtual time, and how far off that is
hot_swap     load, and a policy change every second
tuning       `bayes` on the running server
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml

from agents.core.progress import silent
from agents.experiments.capacity.limit import measure_capacities
from agents.experiments.grid import Plan
from agents.machine.plan import LATENCY, REQUESTS, STEPS, Measurement
from agents.machine.server import Counters, kv_blocks, make_launch, running
from agents.machine.step_traffic import LONGEST_OUTPUT, backlog, ramp
from agents.operations.supervise import is_healthy
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.play import begin, play
from ewsjf_env.engine.real.remote import RemoteConfig, RemoteEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.steps.step_fit import fit_steps
from ewsjf_env.engine.steps.step_samples import read_steps
from ewsjf_env.engine.virtual import build_virtual
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.workload.trace import Trace

WARM_UP_SHARE = 0.2  # of a ramp
CALIBRATION_BACKLOG = 300  # requests
CORES_OF_A_SERVER = 4
HEALTH_TRIES = 5  # each waits a second
TUNING_LOAD = 1.1  # where nobody waits every order is as good: such windows are void
TUNING_TTFT_S, TUNING_TPOT_S = 1.0, 0.1  # what the tuner's objective calls good
DRAIN_POLL_S = 0.2
DRAIN_S = 300.0  # most that requests may need to their end after the last has come
TRACE_SEED = 7
SWAPS = ("ewsjf", "fcfs", "ewsjf(k=50)", "hrrn", "ewsjf(q_max=4)")
COMPARED = ("ttft_mean_s", "ttft_p50_s", "ttft_p95_s", "tpot_p95_s", "output_tokens_per_s")


def measure_steps(result: Measurement) -> None:
    """Stage `steps` on a server of its own."""
    result.step_log = STEPS
    try:
        launch = make_launch(result)
        with running(launch, result.plan.url, result.folder / "server_steps.log") as start_s:
            calibrate(result)
    finally:
        result.step_log = None
    result.note("steps", server_start_s=start_s)


def calibrate(result: Measurement) -> None:
    """Stage `steps` on the server that runs, which must log its steps."""
    plan = result.plan
    assert result.step_log is not None
    longest = plan.max_model_len - LONGEST_OUTPUT
    with closing(build_virtual(simulated_config(result))) as simulated:
        capacity = simulated.measure_capacity(backlog(CALIBRATION_BACKLOG, longest))
    counters = Counters(plan.url)
    delays = []
    with closing(remote_engine(result)) as engine:
        warm_up = ramp(capacity, WARM_UP_SHARE * plan.ramp_s, longest, seed=0)
        begin(engine, parse_policy("fcfs"), warm_up)  # kernels are compiled
        _drain(engine, len(warm_up))
        begun_s = time.monotonic()
        for seed in range(1, plan.ramps + 1):
            traffic = ramp(capacity, plan.ramp_s, longest, seed)
            counters.read()
            begin(engine, None, traffic)
            _drain(engine, len(traffic))
            counters.read()
            delays.append(_front_end_s(engine.records(), counters.records))
    steps = [s for s in read_steps(result.folder / result.step_log) if s.at_s > begun_s]
    machine = LatencyModel.load(plan.like)
    if not result.simulated:
        name = f"{machine.machine.model.name} on {result.data['device']}"
        machine = replace(machine, machine=replace(machine.machine, name=name))
    fit = fit_steps(machine, steps)
    fit.model.save(result.folder / LATENCY)
    known = [delay for delay in delays if delay is not None]
    result.note(
        "steps",
        latency=fit.model.to_dict(),
        front_end_s=median(known) if known else None,
        **fit.to_dict(),
    )


def _front_end_s(client: list[RequestRecord], server: list[dict[str, Any]]) -> float | None:
    """How much longer the first token takes for the client than inside the scheduler, mean."""
    seen = [r.first_token_s - r.arrival_s for r in client if r.first_token_s is not None]
    inside = [r["first_token_s"] - r["arrival_s"] for r in server if r["first_token_s"] is not None]
    return fmean(seen) - fmean(inside) if len(seen) == len(inside) > 0 else None


def measure_capacity(result: Measurement) -> None:
    """Stage `capacity`."""
    plan = result.plan
    grid = Plan(
        policies=(parse_policy("fcfs"),),
        sources=plan.sources,
        loads=plan.loads,
        rates_per_s=(),
        seeds=1,
        duration_s=plan.duration_s,
        engine=simulated_config(result),
    )
    workers = max(1, min(len(plan.sources), (os.cpu_count() or 1) // CORES_OF_A_SERVER))
    found = measure_capacities(grid.workloads(), grid.engine, result.folder, workers, silent)
    result.note("capacity", requests_per_s=found, latency=_source(result))


def serve(result: Measurement) -> None:
    """Stage `serving`: a run is one window from an empty engine, as in virtual time.

    Runs that are there already are not repeated.
    """
    plan = result.plan
    runs = result.stage("serving").setdefault("runs", {})
    result.note("serving", kv_blocks=kv_blocks(plan.url))
    counters = Counters(plan.url)
    failed = []
    with closing(remote_engine(result)) as engine:
        for key, policy, trace in cases(result):
            if key in runs:
                continue
            try:
                runs[key] = _serve_once(engine, counters, policy, trace, plan.duration_s)
                _keep_requests(result, key, engine, counters)
            except EngineError as error:
                if not is_up(result):
                    raise
                failed.append(f"{key}: {error}")
            result.save()
    if failed:
        raise EngineError(f"{len(failed)} runs failed, the first: {failed[0]}")


def _serve_once(
    engine: RemoteEngine, counters: Counters, policy: str, trace: Trace, duration_s: float
) -> dict[str, Any]:
    begin(engine, parse_policy(policy), trace)
    before, begun_s = counters.read(), time.monotonic()
    metrics = engine.run_window(duration_s)
    after, wall_s = counters.read(), time.monotonic() - begun_s
    steps = after["steps"] - before["steps"]
    return {
        "metrics": metrics.to_dict(),
        "requests": len(trace),
        "rate_per_s": len(trace) / duration_s,
        "steps": steps,
        "wall_per_step_s": wall_s / steps if steps else None,
        "scheduler_share": (after["scheduler_s"] - before["scheduler_s"]) / wall_s,
    }


def _keep_requests(result: Measurement, key: str, engine: RemoteEngine, counters: Counters) -> None:
    """One line with every request of a run, as its client and as the server saw it."""
    line = {
        "run": key,
        "client": [asdict(record) for record in engine.records()],
        "server": counters.records,
    }
    with (result.folder / REQUESTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def predict(result: Measurement) -> None:
    """Stage `prediction`: errors of the engine in virtual time, relative to what was measured.

    None of these requests was seen by the fit.  To a time to first token is added what the way
    between client and scheduler took in stage `steps`.
    """
    measured = result.found("serving").get("runs", {})
    if not measured:
        raise ConfigError("there are no serving runs to predict")
    config = simulated_config(result)
    # The client's clock runs while a request is read, sent on and answered, too.
    front_end_s = result.found("steps").get("front_end_s") or 0.0
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    with closing(build_virtual(config)) as engine:
        for key, policy, trace in cases(result):
            if key not in measured:
                continue
            (window,) = play(engine, parse_policy(policy), trace, [result.plan.duration_s])
            metrics = window.to_dict()
            for name in COMPARED:
                if name.startswith("ttft") and metrics[name] is not None:
                    metrics[name] += front_end_s
            found = measured[key]["metrics"]
            error = {name: _error(metrics[name], found[name]) for name in COMPARED}
            runs[key] = {"metrics": metrics, "error": error}
            result.note("prediction", runs=runs)
    summary = {}
    for name in COMPARED:
        errors = [abs(e) for run in runs.values() if (e := run["error"][name]) is not None]
        if errors:
            summary[name] = {"median": median(errors), "worst": max(errors)}
    result.note("prediction", runs=runs, absolute_error=summary, latency=_source(result))


def hot_swap(result: Measurement) -> None:
    """Stage `hot_swap`: every request must come back with all its tokens.

    `RemoteEngine` fails when one does not.
    """
    plan = result.plan
    trace = _draw(result, 0, max(plan.loads), plan.swap_s)
    swaps = 0
    with closing(remote_engine(result)) as engine:
        begin(engine, parse_policy("ewsjf"), trace)
        while engine.now() < plan.swap_s:
            engine.install(parse_policy(SWAPS[swaps % len(SWAPS)]))
            swaps += 1
            engine.run_window(1.0)
        _drain(engine, len(trace))
        records = engine.records()
    whole = sum(r.finish_s is not None and r.generated_tokens == r.output_tokens for r in records)
    result.note("hot_swap", policy_changes=swaps, requests=len(records), answered_whole=whole)
    if whole != len(records):
        raise EngineError(f"{len(records) - whole} of {len(records)} requests were not answered")


def tune(result: Measurement) -> None:
    """Stage `tuning`: `ewsjf train`, as an operator would start it."""
    plan = result.plan
    rate = TUNING_LOAD * _capacities(result)[_names(result)[0]]
    task = {
        "engine": "remote",
        "remote": {
            "url": plan.url,
            "latency": str(Path(result.latency).absolute()),
            "max_num_batched_tokens": plan.max_num_batched_tokens,
            "metrics": {"ttft_slo_s": TUNING_TTFT_S, "tpot_slo_s": TUNING_TPOT_S},
        },
        "workload": plan.sources[0].path,
        "rates_per_s": [rate],
        "windows": plan.windows,
        "window_s": plan.window_s,
        "settle_s": min(2.0, plan.window_s),
        "warmup_s": plan.window_s,
    }
    if plan.sources[0].is_trace:
        workload = result.folder / "tuned.yaml"
        content = {"name": "tuned", "trace": str(Path(plan.sources[0].path).absolute())}
        workload.write_text(yaml.safe_dump(content), encoding="utf-8")
        task["workload"] = str(workload.absolute())
    config = result.folder / "tuning.yaml"
    config.write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    run = result.folder / f"tuning_{int(time.time())}"
    command = [sys.executable, "-m", "agents.cli", "train", "--engine", "remote"]
    command += [
        "--url",
        plan.url,
        "--config",
        str(config),
        "--windows",
        str(plan.windows),
        "--out",
        str(run),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = []
    if (run / "windows.jsonl").exists():
        lines = (run / "windows.jsonl").read_text(encoding="utf-8").splitlines()
    windows = [_told(record) for record in map(json.loads, lines)]
    result.note("tuning", rate_per_s=rate, windows=windows, output=done.stdout.splitlines())
    if done.returncode != 0 or len(windows) < plan.windows:
        last = (done.stderr.splitlines() or ["no output"])[-1]
        raise EngineError(f"ewsjf train ended with exit code {done.returncode}: {last[-300:]}")


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a result keeps of a line of windows.jsonl."""
    served, score = record["served"], record["score"]
    return {
        "window": record["window"],
        **{name: served[name] for name in ("values", "failure", "aborted")},
        **{name: score[name] for name in ("reward", "violation")},
        "void": record["agent"]["void"],
    }


def is_up(result: Measurement) -> bool:
    """Whether the server still answers."""
    return any(is_healthy(result.plan.url) for _ in range(HEALTH_TRIES))


def remote_engine(result: Measurement) -> RemoteEngine:
    """An engine over the measurement's server."""
    config = RemoteConfig(
        url=result.plan.url,
        latency=result.latency,
        max_num_batched_tokens=result.plan.max_num_batched_tokens,
        start_timeout_s=0.0,
        api_key_env="",
    )
    return RemoteEngine(config)


def simulated_config(result: Measurement) -> SimulatedConfig:
    """The same machine in virtual time."""
    plan = result.plan
    return SimulatedConfig(
        latency=result.latency,
        max_num_seqs=plan.max_num_seqs,
        max_num_batched_tokens=plan.max_num_batched_tokens,
        max_model_len=plan.max_model_len,
        kv_blocks=result.found("serving").get("kv_blocks"),
    )


def cases(result: Measurement) -> Iterator[tuple[str, str, Trace]]:
    """Key, policy and trace of every serving run."""
    plan = result.plan
    for place, name in enumerate(_names(result)):
        for load in plan.loads:
            trace = _draw(result, place, load, plan.duration_s)
            for policy in plan.policies:
                yield f"{name} load {load:g} {policy}", policy, trace


def _draw(result: Measurement, place: int, load: float, duration_s: float) -> Trace:
    workload = result.plan.sources[place].load()
    rate = load * _capacities(result)[workload.name]
    return workload.draw(TRACE_SEED, duration_s, rate)


def _names(result: Measurement) -> list[str]:
    return [source.load().name for source in result.plan.sources]


def _capacities(result: Measurement) -> dict[str, float]:
    found: dict[str, float] | None = result.found("capacity").get("requests_per_s")
    if found is None:
        raise ConfigError("the capacity is not known, see stage capacity")
    return found


def _drain(engine: RemoteEngine, requests: int) -> None:
    deadline_s = time.monotonic() + DRAIN_S
    while engine.run_window(DRAIN_POLL_S).outstanding or len(engine.records()) < requests:
        if time.monotonic() > deadline_s:
            raise EngineError(f"requests were still open after {DRAIN_S:g} s")


def _error(predicted: float | None, measured: float | None) -> float | None:
    if predicted is None or not measured or not math.isfinite(predicted):
        return None
    return predicted / measured - 1.0


def _source(result: Measurement) -> str:
    return "fitted" if Path(result.latency).suffix == ".json" else f"preset {result.latency}"
