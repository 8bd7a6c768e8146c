"""The share of a server's engine core that a tuner takes.

A tuner is another process: the engine core, which schedules, only answers it.  A look (`GET
/ewsjf/window`, once a second while a window runs) and a change of values (`PATCH /ewsjf/policy`,
at a window's start and whenever a lease is renewed) take too little to be seen one by one.  So
many are asked for in a row, in phases between which nobody asks, and the CPU time of the core's
process tells the rest; whatever else the server does goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil

from agents.analysis.statistics import mean
from agents.core.progress import bar
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.real.real_time import CHECK_S
from ewsjf_env.engine.real.remote import RemoteConfig
from ewsjf_env.engine.real.remote_client import HttpLink
from ewsjf_env.parameters import Value
from ewsjf_env.policy.policy import Policy

LEASE_S = 60.0  # of values that a tuner tries; renewed at half of it
OWN_LEASE_S = 10.0  # of ours: whatever ends us, the server goes back to what it trusts
BACK_S = 0.1
LOCAL = ("127.0.0.1", "::1", "localhost")
CHANGES = 3  # of values, at a window's start: what is trusted, and what is tried on a lease
Ask = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class CostPlan:
    """What is measured.

    Attributes:
        url: of the server, on this machine.
        window_s: length of a tuner's window, > 0.
        phase_s: length of a phase, >= 0.5.
        repeats: rounds of four phases, >= 2.
        calls_per_s: in a phase with calls, [1, 1000].
    """

    url: str
    window_s: float = 60.0
    phase_s: float = 10.0
    repeats: int = 5
    calls_per_s: float = 50.0


def measure(plan: CostPlan, api_key: str | None) -> dict[str, Any]:
    """The cost of a look and of a change, ms of the engine core, and the share of a window.

    Raises:
        ConfigError: not a server that can be measured, see `engine_cores`.
        EngineError: the server fails.
    """
    cores = engine_cores(RemoteConfig(url=plan.url).url)
    return asyncio.run(_measure(HttpLink(plan.url, api_key, 30.0), cores, plan))


def engine_cores(url: str) -> list[psutil.Process]:
    """Processes of the engine cores behind a server on this machine.

    Raises:
        ConfigError: nobody here listens on the port, or what does has no engine core.
    """
    parts = urlsplit(url)
    if parts.hostname not in LOCAL:
        raise ConfigError(f"--url: {url!r} is not on this machine: give one of {', '.join(LOCAL)}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    pids = sorted({c.pid for c in listening if c.pid and c.laddr and c.laddr.port == port})
    if not pids:
        raise ConfigError(f"--url: no process of this machine and user listens on port {port}")
    # A core that was forked holds its parent's socket, too.
    found = [psutil.Process(pid) for pid in pids]
    family = {p.pid: p for one in found for p in (one, *one.children(recursive=True))}
    cores = [p for p in family.values() if "EngineCore" in " ".join(p.cmdline())]
    if not cores:
        raise ConfigError(f"--url: the server on port {port} has no process of an engine core")
    return cores


async def _measure(
    link: HttpLink, cores: Sequence[psutil.Process], plan: CostPlan
) -> dict[str, Any]:
    """CPU time a call, by phases with many calls beside phases without."""
    try:
        await link.open()
        before = Policy.from_dict((await link.policy())["policy"], "the server's policy")
        values, place, turn = _two_values(before), "0", 0

        async def look() -> None:
            nonlocal place
            place = (await link.window(place, True))["next"]

        async def change() -> None:
            nonlocal turn
            turn += 1
            await link.configure({"parameters": values[turn % 2], "lease_s": OWN_LEASE_S})

        found: dict[str, list[float]] = {"look": [], "change": [], "quiet": []}
        try:
            for _ in bar("round")(range(plan.repeats), plan.repeats):
                for name, ask in (("look", look), ("change", change)):
                    idle, _ = await _phase(cores, None, plan)
                    busy, calls_per_s = await _phase(cores, ask, plan)
                    found["quiet"].append(idle)
                    found[name].append(1000.0 * (busy - idle) / calls_per_s)
        finally:
            # Not the values that were in force: somebody may have been trying them.
            await link.configure({"parameters": values[0], "lease_s": BACK_S})
    finally:
        await link.close()
    costs = {name: mean(found[name]) for name in ("look", "change")}
    window_s = plan.window_s
    changes = CHANGES + window_s / (0.5 * LEASE_S)
    total_ms = window_s / CHECK_S * costs["look"].value + changes * costs["change"].value
    return {
        "url": plan.url,
        "window_s": window_s,
        "phase_s": plan.phase_s,
        "repeats": plan.repeats,
        "calls_per_s": plan.calls_per_s,
        "engine_cores": len(cores),
        "busy_without": sum(found["quiet"]) / len(found["quiet"]),
        "look_ms": asdict(costs["look"]),
        "change_ms": asdict(costs["change"]),
        "share": total_ms / (1000.0 * window_s),
    }


def _two_values(policy: Policy) -> list[dict[str, Value]]:
    """The values in force of one parameter, and others near them, so that a change is one."""
    for name, value in policy.parameters.items():
        if isinstance(value, float) and value != 0.0:
            with contextlib.suppress(ConfigError):
                policy.with_parameters({name: 0.99 * value})
                return [{name: value}, {name: 0.99 * value}]
    raise ConfigError("--url: the policy in force has no number that could be changed")


async def _phase(
    cores: Sequence[psutil.Process], ask: Ask | None, plan: CostPlan
) -> tuple[float, float]:
    """CPU seconds of the cores a second of a phase, and how many calls were answered in one."""
    loop = asyncio.get_running_loop()
    start_s, start_cpu_s, calls = loop.time(), _cpu_s(cores), 0
    while (elapsed := loop.time() - start_s) < plan.phase_s:
        if ask is None:
            await asyncio.sleep(plan.phase_s - elapsed)
            continue
        await asyncio.sleep(max(0.0, calls / plan.calls_per_s - elapsed))
        await ask()
        calls += 1
    took_s = loop.time() - start_s  # a slow answer makes it a little longer
    return (_cpu_s(cores) - start_cpu_s) / took_s, calls / took_s


def _cpu_s(cores: Sequence[psutil.Process]) -> float:
    times = [core.cpu_times() for core in cores]
    return float(sum(t.user + t.system for t in times))
