"""tuner_cost.py: how much of a server's engine core does a tuner take?

A tuner is another process: the engine core, which schedules, only answers it.  A look (`GET
/ewsjf/window`, once a second while a window runs) and a change of values (`PATCH /ewsjf/policy`,
at a window's start and whenever a lease is renewed) take too little to be seen one by one.  So
many are asked for in a row, in phases between which nobody asks, and the CPU time of the core's
process tells the rest; whatever else the server does goes on meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from tqdm import tqdm

from agents.analysis.statistics import mean
from agents.core.files import write_json
from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.base import EngineError
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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when done, 1 when the server fails, 2 for bad input."""
    arguments = _parser().parse_args(argv)
    try:
        check_range("--repeats", arguments.repeats, 2)
        check_range("--phase-s", arguments.phase_s, 0.5)
        check_range("--calls-per-s", arguments.calls_per_s, 1.0, 1000.0)
        check_range("--window-s", arguments.window_s, 0.0, low_open=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("a", encoding="utf-8"):
            pass  # what cannot be written is said before it has taken minutes
        cores = engine_cores(RemoteConfig(url=arguments.url).url)
        link = HttpLink(arguments.url, os.environ.get("VLLM_API_KEY"), 30.0)
        result = asyncio.run(_measure(link, cores, arguments))
    except (ConfigError, OSError) as error:
        _forget(arguments.out)
        print(f"tuner_cost.py: {error}", file=sys.stderr)
        return 2
    except (EngineError, psutil.Error) as error:
        _forget(arguments.out)
        print(f"tuner_cost.py: {error}", file=sys.stderr)
        return 1
    write_json(arguments.out, result)
    look, change, share = result["look_ms"], result["change_ms"], result["share"]
    print(
        f"engine core: a look {_text(look)} ms, a change {_text(change)} ms; "
        f"share of a window of {arguments.window_s:g} s: {share:.3%}; busy with all else: "
        f"{result['busy_without']:.1%} ({arguments.out})"
    )
    return 0


def _forget(path: Path) -> None:
    """The file that was opened to see whether it can be."""
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()


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
    link: HttpLink, cores: Sequence[psutil.Process], arguments: argparse.Namespace
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
            for _ in tqdm(range(arguments.repeats), unit="round", disable=None):
                for name, ask in (("look", look), ("change", change)):
                    idle, _ = await _phase(cores, None, arguments)
                    busy, calls_per_s = await _phase(cores, ask, arguments)
                    found["quiet"].append(idle)
                    found[name].append(1000.0 * (busy - idle) / calls_per_s)
        finally:
            # Not the values that were in force: somebody may have been trying them.
            await link.configure({"parameters": values[0], "lease_s": BACK_S})
    finally:
        await link.close()
    costs = {name: mean(found[name]) for name in ("look", "change")}
    window_s = arguments.window_s
    changes = CHANGES + window_s / (0.5 * LEASE_S)
    total_ms = window_s / CHECK_S * costs["look"].value + changes * costs["change"].value
    return {
        "url": arguments.url,
        "window_s": window_s,
        "phase_s": arguments.phase_s,
        "repeats": arguments.repeats,
        "calls_per_s": arguments.calls_per_s,
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
    cores: Sequence[psutil.Process], ask: Ask | None, arguments: argparse.Namespace
) -> tuple[float, float]:
    """CPU seconds of the cores a second of a phase, and how many calls were answered in one."""
    loop = asyncio.get_running_loop()
    start_s, start_cpu_s, calls = loop.time(), _cpu_s(cores), 0
    while (elapsed := loop.time() - start_s) < arguments.phase_s:
        if ask is None:
            await asyncio.sleep(arguments.phase_s - elapsed)
            continue
        await asyncio.sleep(max(0.0, calls / arguments.calls_per_s - elapsed))
        await ask()
        calls += 1
    took_s = loop.time() - start_s  # a slow answer makes it a little longer
    return (_cpu_s(cores) - start_cpu_s) / took_s, calls / took_s


def _cpu_s(cores: Sequence[psutil.Process]) -> float:
    times = [core.cpu_times() for core in cores]
    return float(sum(t.user + t.system for t in times))


def _text(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tuner_cost.py",
        description="How much CPU time does a tuner take of a running server's engine core?  The "
        "server is on this machine and was started with serve.py --allow-patch; its policy is "
        "changed a little, on a lease, and goes back to what the server trusts.",
    )
    add = parser.add_argument
    add("--url", required=True, help="of the server, such as http://127.0.0.1:8123")
    add("--out", type=Path, required=True, help="JSON file for the result")
    add("--window-s", type=float, default=60.0, help="length of a tuner's window (60)")
    add("--phase-s", type=float, default=10.0, help="length of a phase (10)")
    add("--repeats", type=int, default=5, help="rounds of four phases (5)")
    add("--calls-per-s", type=float, default=50.0, help="in a phase with calls (50)")
    return parser
