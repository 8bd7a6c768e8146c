"""The speed of the virtual clock: virtual seconds a CPU second, beside another version of the tree.

Each version of the source tree gets a process of its own, started once, that serves what it is
asked to; the versions take turns, so that a machine that slows down slows both, and a ratio is
taken within a turn.  Windows of both must be equal to the last bit: a faster engine that serves
another order is another engine.  Only CPU time of the process counts.

`shares` is where the time goes, by cProfile: in vLLM's functions, in ours, and elsewhere; what
either calls of Python's own counts as theirs.
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.analysis.statistics import Estimate
from agents.experiments.benchmark import PACKAGE, median
from ewsjf_env.config import ConfigError, check_range
from ewsjf_env.engine.play import play
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.policy.policy import default_policy
from ewsjf_env.workload import Trace, load_workload

ROOT = Path(__file__).parents[2]
WARM_UP_S = 20.0
# Of the stored versions, too: only what every version has may be used here.
_SERVE = """
import hashlib, json, sys, time
from ewsjf_env.engine.play import play
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.policy.policy import default_policy
from ewsjf_env.workload import load_workload
engine = SimulatedEngine()
engine.install(default_policy())
for line in sys.stdin:
    workload, rate, duration_s, warm_up_s = json.loads(line)
    engine.reset(load_workload(workload).draw(0, warm_up_s + duration_s, rate))
    engine.run_window(warm_up_s)
    started = time.process_time()
    window = engine.run_window(duration_s).to_dict()
    cpu_s = time.process_time() - started
    text = json.dumps(window, sort_keys=True)
    print(json.dumps([cpu_s, hashlib.sha256(text.encode()).hexdigest()[:16]]), flush=True)
"""


@dataclass(frozen=True)
class ClockCase:
    """Traffic to measure on; `rate_per_s` mean requests a second."""

    name: str
    workload: str
    rate_per_s: float


# FCFS serves about 5.0 requests/s of paper_mix; 5.0 is the rate of configs/env/tuning.yaml.
CASES = (
    ClockCase("paper_mix, load 0.7", "paper_mix", 3.5),
    ClockCase("paper_mix, load 1.3", "paper_mix", 6.5),
    ClockCase("configs/env/tuning.yaml", "paper_mix", 5.0),
)


@dataclass(frozen=True)
class ClockSpeed:
    """Result of one case.

    Attributes:
        case: its name.
        speed: virtual seconds a CPU second of this version: median of the turns, 95 % interval.
        before: of the other version.
        gain: median of the ratios within turns, and its interval.
        digest: of the window, the same in both versions.
        shares: of the time, by cProfile.
    """

    case: str
    speed: Estimate
    before: Estimate
    gain: Estimate
    digest: str
    shares: dict[str, float]


def compare_clocks(
    other: Path, duration_s: float = 60.0, turns: int = 8, cases: Sequence[ClockCase] = CASES
) -> list[ClockSpeed]:
    """Measure this source tree and another one.

    Args:
        other: root of the other tree, for example a `git worktree`.
        duration_s: virtual seconds of a turn, > 0; the first 20 s before it are not timed.
        turns: >= 2; each version is as often first.
        cases: traffic.

    Raises:
        ConfigError: `other` is no source tree, or its windows differ from ours.
    """
    check_range("duration_s", duration_s, 0.0, low_open=True)
    check_range("turns", turns, 2)
    if not (other / "ewsjf_env").is_dir():
        raise ConfigError(f"against: {str(other)!r} holds no package ewsjf_env")
    found = []
    with ExitStack() as stack:
        versions = [stack.enter_context(_start(tree)) for tree in (ROOT, other.resolve())]
        for case in cases:
            speeds, digests = np.zeros((2, turns)), set()
            for turn in range(turns):
                for index in (0, 1) if turn % 2 == 0 else (1, 0):
                    cpu_s, digest = _ask(versions[index], case, duration_s)
                    speeds[index, turn] = duration_s / cpu_s
                    digests.add(digest)
            if len(digests) > 1:
                raise ConfigError(f"{case.name}: the versions serve different windows: {digests}")
            found.append(
                ClockSpeed(
                    case.name,
                    median(speeds[0]),
                    median(speeds[1]),
                    median(speeds[0] / speeds[1]),
                    digests.pop(),
                    profile_shares(case, duration_s),
                )
            )
    return found


def profile_shares(case: ClockCase, duration_s: float) -> dict[str, float]:
    """Shares of the profiled CPU time: `vllm`, `ours`, `other`; sum 1."""
    engine = SimulatedEngine()
    trace: Trace = load_workload(case.workload).draw(0, WARM_UP_S + duration_s, case.rate_per_s)
    windows = play(engine, default_policy(), trace, [WARM_UP_S, duration_s])
    next(windows)
    profile = cProfile.Profile(time.process_time)
    profile.runcall(next, windows)
    rows: dict[tuple[str, int, str], tuple[Any, ...]]
    rows = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    sums = {"vllm": 0.0, "ours": 0.0, "other": 0.0}
    for (path, _, _), (_, _, own_s, _, callers) in rows.items():
        owner = _owner(path)
        if owner != "other" or not callers:
            sums[owner] += own_s
        else:
            for (caller, _, _), (_, _, caller_s, _) in callers.items():
                sums[_owner(caller)] += caller_s
    total = sum(sums.values())
    return {name: round(seconds / total, 4) for name, seconds in sums.items()}


def _owner(path: str) -> str:
    if path.startswith(PACKAGE):
        return "ours"
    return "vllm" if f"{os.sep}vllm{os.sep}" in path else "other"


def _start(tree: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        cwd=tree,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(version: subprocess.Popen[str], case: ClockCase, duration_s: float) -> tuple[float, str]:
    assert version.stdin is not None
    assert version.stdout is not None
    asked = [case.workload, case.rate_per_s, duration_s, WARM_UP_S]
    version.stdin.write(json.dumps(asked) + "\n")
    version.stdin.flush()
    line = version.stdout.readline()
    if not line:
        raise ConfigError("a version has ended with an error, see above")
    cpu_s, digest = json.loads(line)
    return float(cpu_s), str(digest)


def to_rows(speeds: Sequence[ClockSpeed]) -> list[dict[str, Any]]:
    """Plain values, for JSON."""
    return [asdict(speed) for speed in speeds]
