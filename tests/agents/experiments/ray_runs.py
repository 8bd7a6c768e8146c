"""Runs whose workers are killed, on a Ray cluster of two CPUs that is started for them.

Run as a module with a folder; prints "survived" when all is well.  In a process of its own: Ray
leaves threads and sockets to the end of its process.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from joblib import Parallel, delayed

from agents.experiments.backend import parallel_on
from agents.experiments.grid import make_runs
from agents.experiments.policy_runs import run_all
from ewsjf_env.config import ConfigError
from tests.agents.experiments.evaluations import make_plan, quiet, write_trace
from tests.agents.single_server import fails_for_hrrn, killed_for_hrrn, killed_once, played


def main(folder: Path) -> None:
    jobs = make_runs(make_plan(write_trace(folder / "trace.csv")), {})
    with parallel_on("ray", 2):
        records, failures = run_all(jobs, folder / "played", 2, quiet, played)
        assert (len(records), failures) == (6, {})

        records, failures = run_all(jobs, folder / "killed", 2, quiet, killed_for_hrrn)
        assert sorted((r["policy"], r["seed"]) for r in records) == [
            ("fcfs", 0), ("fcfs", 1), ("sjf", 0), ("sjf", 1)
        ]  # fmt: skip
        assert len(failures) == 2, failures
        assert all("hrrn" in key and "killed" in reason for key, reason in failures.items())

        killed = functools.partial(killed_once, marker=folder / "marker")
        records, failures = run_all(jobs, folder / "once", 2, quiet, killed)
        assert (folder / "marker").exists()
        assert (len(records), failures) == (6, {})

        records, failures = run_all(jobs, folder / "fails", 2, quiet, fails_for_hrrn)
        assert len(records) == 4
        assert set(failures.values()) == {"RuntimeError: the scheduler is stuck at step 7"}
        left = [path.name for path in folder.rglob("*.running")]
        assert not left, left

        try:
            Parallel(n_jobs=2)([delayed(_refuse)(number) for number in range(4)])
        except ConfigError as error:
            assert str(error) == "a field: 3"
        else:
            raise AssertionError("the error of a call was lost")


def _refuse(number: int) -> None:
    if number == 3:
        raise ConfigError("a field: 3")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    print("survived")
