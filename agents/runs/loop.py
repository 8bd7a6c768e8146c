"""How is a run driven to its last window, through interruptions, full disks and failed engines?

Each window goes: ask the agent, run it, write its line, show it to the agent, log it.  A kill
between any two of these loses nothing that was measured: the line is the truth, the agent is
shown it again, and logs are made up from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from agents.core.words import counted
from agents.runs.folder import RunDir
from agents.runs.session import Session
from agents.runs.tags import RunFacts
from agents.runs.tensorboard import Tracker
from ewsjf_env.config import ConfigError, to_dict

FAILURES_IN_A_ROW = 5  # windows that the engine may not survive, before the run gives up


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a progress bar shows after each window."""

    window: int
    windows: int
    reward: float
    incumbent: Mapping[str, Any]
    violations: int


def tune(
    run: RunDir,
    windows: int,
    report: Callable[[Progress], None] = lambda _: None,
    conclude: Callable[[Session], None] = lambda _: None,
    begin: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Run until `windows` windows are done; returns and writes the summary.

    Args:
        run: opened for writing; what it holds already is continued.
        windows: in all, >= 1.
        report: called after every window.
        conclude: called when all windows are done, while the agent is still there.
        begin: called with the number of windows that are done, when all is checked and nothing
            is served yet.

    Raises:
        ConfigError: the run holds more windows already, cannot be continued, or the disk is
            full; what was measured is kept.
    """
    records = run.windows()
    if windows < len(records):
        done = len(records)
        raise ConfigError(f"windows: {windows} is fewer than the {done} that are done; name more")
    session = Session(run.config, run.path)
    config = run.config
    settings = to_dict(config.settings)
    facts = RunFacts.of(config.task, config.agent, config.seed, windows, settings)
    tracker = Tracker(run.path, facts, past=records)
    try:
        begin(len(records))
        session.restore(records)
        failures = 0
        while len(records) < windows and session.killed is None:
            record, timing = session.begin_window()
            run.append(record)
            records.append(record)
            observe_s = session.finish_window(record)
            tracker.window(record, dataclasses.replace(timing, observe_s=observe_s))
            report(_progress(records, windows))
            failures = failures + 1 if record["failure"] else 0
            if failures == FAILURES_IN_A_ROW:
                raise ConfigError(
                    f"{failures} windows in a row failed, the last with: {record['failure']}"
                )
        conclude(session)
        return _summarise(run, session, records)
    except OSError as error:
        where = error.filename2 or error.filename or run.path
        raise ConfigError(
            f"{where}: cannot be written: {error.strerror or error}; "
            f"{counted(len(run.windows()), 'window')} so far, all kept: mend it (free some space, "
            "if the disk is full) and resume the run"
        ) from None
    finally:
        tracker.close()
        session.close()


def _progress(records: list[dict[str, Any]], windows: int) -> Progress:
    last = records[-1]
    violations = sum(r["violation"] for r in records)
    return Progress(last["window"], windows, last["reward"], last["incumbent"], violations)


def _summarise(run: RunDir, session: Session, records: list[dict[str, Any]]) -> dict[str, Any]:
    measured = [r for r in records if not r["void"] and r["failure"] is None]
    summary = {
        "agent": run.config.agent,
        "seed": run.config.seed,
        "workload": run.config.env.workload,
        "windows": len(records),
        "recommendation": session.recommendation(),
        "reward_mean": fmean(r["reward"] for r in measured) if measured else None,
        "reward_worst": min((r["reward"] for r in measured), default=None),
        "violations": sum(r["violation"] for r in records),
        "void": sum(r["void"] for r in records),
        "failed": sum(r["failure"] is not None for r in records),
        "aborted": sum(r["aborted"] for r in records),
        "killed": session.killed,
    }
    run.write_summary(summary)
    return summary
