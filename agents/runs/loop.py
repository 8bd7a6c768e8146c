"""The loop that drives a run to its last window, through interruptions and failed engines.

Each window goes: ask the agent, run it, write its line, show it to the agent, log it.  A kill
between any two of these loses nothing that was measured: the line is the truth, the agent is
shown it again, and all that people look at is made from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from agents.core.window import WindowRecord
from agents.core.words import counted
from agents.runs.fidelity import check_run, needs_check
from agents.runs.folder import RunDir
from agents.runs.session import Session
from agents.runs.tensorboard.tags import RunFacts
from agents.runs.tensorboard.tracker import Tracker
from ewsjf_env.config import ConfigError, to_dict
from ewsjf_env.engine.base import EngineError

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
    fidelity_s: float = 0.0,
) -> dict[str, Any]:
    """Run until `windows` windows are done; returns and writes the summary.

    Args:
        run: opened for writing; what it holds already is continued.
        windows: in all, >= 1.
        report: called after every window.
        conclude: called when all windows are done, while the agent is still there.
        begin: called with the number of windows that are done, when all is checked and nothing
            is served yet.
        fidelity_s: so many seconds of the run's traffic are checked against vLLM's own scheduler
            at the end, see `fidelity`; 0: none.

    Raises:
        ConfigError: the run holds more windows already, cannot be continued, or the disk is
            full; what was measured is kept.
    """
    records = run.windows()
    if windows < len(records):
        done = len(records)
        raise ConfigError(f"windows: {windows} is fewer than the {done} that are done; name more")
    try:
        session = Session(run.config, run.path)
    except (ConfigError, EngineError):
        run.withdraw()  # a new run has not begun: its folder would be in the way of the next try
        raise
    config = run.config
    settings = to_dict(config.settings)
    facts = RunFacts.of(config.task, config.agent, config.seed, windows, settings)
    tracker = Tracker(run.path, facts, past=records)
    try:
        begin(len(records))
        session.restore(records)
        run.discard_summary()  # it tells of fewer windows
        failures = 0
        while len(records) < windows and session.killed is None:
            record, timing = session.run_window()
            run.append(record)
            records.append(record)
            observe_s = session.show(record)
            tracker.window(record, dataclasses.replace(timing, observe_s=observe_s))
            report(_progress(records, windows))
            reason = record.served.failure
            failures = failures + 1 if reason else 0
            if failures == FAILURES_IN_A_ROW:
                raise ConfigError(f"{failures} windows in a row failed, the last with: {reason}")
        conclude(session)
        return _summarise(run, session, records, fidelity_s)
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


def _progress(records: Sequence[WindowRecord], windows: int) -> Progress:
    last = records[-1]
    violations = sum(r.score.violation for r in records)
    return Progress(last.window, windows, last.score.reward, last.plan.incumbent, violations)


def _summarise(
    run: RunDir, session: Session, records: Sequence[WindowRecord], fidelity_s: float
) -> dict[str, Any]:
    rewards = [r.score.reward for r in records if r.measured]
    task, recommended = run.config.task, session.recommendation()
    checked = None
    if fidelity_s > 0.0 and records and needs_check(task):
        checked = check_run(task, records[-1], recommended, fidelity_s)
    summary = {
        "agent": run.config.agent,
        "seed": run.config.seed,
        "workload": run.config.env.workload,
        "windows": len(records),
        "engine": task.engine_name,
        "fidelity": checked,
        "recommendation": recommended,
        "reward_mean": fmean(rewards) if rewards else None,
        "reward_worst": min(rewards, default=None),
        "violations": sum(r.score.violation for r in records),
        "void": sum(r.agent.void for r in records),
        "failed": sum(r.served.failure is not None for r in records),
        "aborted": sum(r.served.aborted for r in records),
        "killed": session.killed,
    }
    run.write_summary(summary)
    return summary
