"""A soak: a server under load for as long as one cares to wait, and what must not happen.

Starts a server as `ewsjf serve` does, loads it (`soak_load.py`), reads the server's own record of
requests, and watches the memory of its processes.  All is well when

    every request that its client did not give up was answered once, with all its tokens,
    the server's record agrees: as many arrivals as requests sent, each ended once, none open,
    no policy change failed, and every illegal one was refused,
    the server's log has no traceback,
    memory is flat: the last quarter is at most 5 % (or 24 MiB) above the second quarter.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil

from agents.core.progress import meter
from agents.operations.soak_load import Load, LoadSettings, Tally
from agents.operations.supervise import is_healthy
from ewsjf_env.serving.launch import Launch

GROWTH_SHARE, GROWTH_BYTES = 0.05, 24 << 20
SAMPLE_S = 2.0
BAR = "{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}"
START_S, DRAIN_S, STOP_S = 600.0, 120.0, 60.0


@dataclass
class Watch:
    """What is seen of the server: memory by process, and its record of requests."""

    pid: int
    rss_bytes: dict[str, list[int]] = field(default_factory=dict)
    place: str = "0"
    seen: set[str] = field(default_factory=set)
    twice: int = 0
    lost: int = 0
    open: int = 0
    counters: dict[str, float] = field(default_factory=dict)

    def sample_memory(self) -> None:
        """Add the resident size of the server and its children."""
        process = psutil.Process(self.pid)
        for one in [process, *process.children(recursive=True)]:
            try:
                name = f"{one.pid} {_role(one, self.pid)}"
                self.rss_bytes.setdefault(name, []).append(one.memory_info().rss)
            except psutil.NoSuchProcess:
                continue

    async def read_record(self, session: aiohttp.ClientSession, settings: LoadSettings) -> None:
        """Go on reading the server's record."""
        more = True
        while more:
            url = f"{settings.url}/ewsjf/window?since={self.place}"
            async with session.get(url, headers=settings.headers) as answer:
                answer.raise_for_status()
                window = await answer.json()
            self.place = window["next"]
            ranks = window["ranks"]
            self.lost += sum(rank["lost"] for rank in ranks)
            self.open = sum(len(rank["open"]) for rank in ranks)
            names = ranks[0]["counters"]
            self.counters = {n: sum(rank["counters"][n] for rank in ranks) for n in names}
            for rank in ranks:
                for row in rank["finished"]:
                    self.twice += row[0] in self.seen
                    self.seen.add(row[0])
            more = any(rank["more"] for rank in ranks)


def run(launch: Launch, settings: LoadSettings, duration_s: float, log: Path) -> dict[str, Any]:
    """Start the server, soak it, stop it; the result as plain values."""
    environment = {**os.environ, **launch.environment}
    with log.open("wb") as output:
        server = subprocess.Popen(
            launch.command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    tally, watch = Tally(), Watch(server.pid)
    started_s = time.monotonic()
    try:
        while not is_healthy(settings.url):
            if server.poll() is not None or time.monotonic() > started_s + START_S:
                tally.problem(f"the server did not start; see {log}")
                return _result(tally, watch, log, 0.0)
            time.sleep(0.5)
        started_s = time.monotonic()
        asyncio.run(_soak(settings, duration_s, server.poll, tally, watch))
    finally:
        elapsed_s = time.monotonic() - started_s
        if server.poll() is None:
            text = log.read_text(encoding="utf-8", errors="replace")  # before it shuts down
            if "Traceback" in text:
                tally.problem(f"a traceback in {log}")
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                tally.problem(f"the server did not stop within {STOP_S:g} s")
    return _result(tally, watch, log, elapsed_s)


async def _soak(
    settings: LoadSettings,
    duration_s: float,
    exit_code: Callable[[], int | None],
    tally: Tally,
    watch: Watch,
) -> None:
    load = Load(settings, tally)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, load.stop.set)
    running = asyncio.create_task(load.run())
    begun_s = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=60.0)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        with meter(total=duration_s, unit="s", bar_format=BAR) as progress:
            while not load.stop.is_set() and exit_code() is None:
                elapsed_s = time.monotonic() - begun_s
                progress.n = min(elapsed_s, duration_s)
                progress.set_postfix(dict(tally.counts))
                if elapsed_s >= duration_s:
                    break
                try:
                    watch.sample_memory()
                    await watch.read_record(session, settings)
                except (aiohttp.ClientError, TimeoutError, psutil.Error) as error:
                    tally.problem(f"{type(error).__name__}: {error}")
                await asyncio.sleep(SAMPLE_S)
        load.stop.set()
        try:
            await asyncio.wait_for(running, DRAIN_S)
        except TimeoutError:
            tally.problem(f"requests were still open {DRAIN_S:g} s after the last was sent")
        if exit_code() is not None:
            tally.problem(f"the server ended with exit code {exit_code()}")
            return
        for _ in range(50):  # aborts of clients that have just left
            await watch.read_record(session, settings)
            if not watch.open:
                break
            await asyncio.sleep(0.2)


def _result(tally: Tally, watch: Watch, log: Path, elapsed_s: float) -> dict[str, Any]:
    counts, server = tally.counts, watch.counters
    memory = {name: _growth(sizes) for name, sizes in watch.rss_bytes.items()}
    for name, one in memory.items():
        if not one["flat"]:
            tally.problem(f"memory of {name} grew from {one['early_bytes']} to {one['late_bytes']}")
    if elapsed_s:
        # A client may hang up before its request has reached the scheduler.
        taken_in = counts["sent"] - counts["rejected"]
        missing = taken_in - server.get("arrivals", 0)
        for wrong, text in (
            (not 0 <= missing <= counts["hung_up"], f"{missing:g} requests sent never arrived"),
            (taken_in != counts["answered_once"] + counts["hung_up"], "an answer is missing"),
            (watch.open, f"{watch.open} requests are still open in the server"),
            (watch.twice, f"{watch.twice} requests ended twice"),
            (watch.lost, f"{watch.lost} records were lost"),
            (len(watch.seen) != server.get("arrivals"), "arrivals and ends differ"),
        ):
            if wrong:
                tally.problem(text)
    return {
        "well": not tally.counts["problems"],
        "elapsed_s": elapsed_s,
        "counts": dict(counts),
        "server": server,
        "memory": memory,
        "rss_bytes": watch.rss_bytes,
        "sample_s": SAMPLE_S,
        "log": str(log),
        "problems": tally.problems,
    }


def _growth(sizes: Sequence[int]) -> dict[str, Any]:
    """Medians of the second and the last quarter, and whether the difference is small."""
    quarter = max(1, len(sizes) // 4)
    early, late = median(sizes[quarter : 2 * quarter] or sizes), median(sizes[-quarter:])
    limit = max(GROWTH_SHARE * early, GROWTH_BYTES)
    return {"early_bytes": early, "late_bytes": late, "flat": late - early <= limit}


def _role(process: psutil.Process, server_pid: int) -> str:
    if process.pid == server_pid:
        return "server"
    title = " ".join(process.cmdline()) or process.name()
    return "engine core" if "EngineCore" in title else title[:40]
