"""A scheduler that also writes down how long every step takes: for measuring a machine only.

    --scheduler-cls ewsjf_env.engine.steps.step_log.StepLogScheduler
    --additional-config '{"ewsjf_step_log": "steps.jsonl"}'

It sees what a client cannot: with asynchronous scheduling a step's result comes right after the
one before, and the time in between is the device's.  Lines go to the file some hundreds at a
time, and the step after that is left out.  `ewsjf fit-latency` makes a latency model of them.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.steps.step_samples import KEY, MeasuredStep
from ewsjf_env.scheduling.step_work import StepFollower, StepWork
from ewsjf_env.serving.scheduler import EWSJFScheduler

LINES = 200  # written at once


class StepLog:
    """Pairs what was scheduled with when its result came."""

    def __init__(self, path: Path) -> None:
        """Begin the file anew; OSError where it cannot be written."""
        self._file = path.open("w", encoding="utf-8")
        self._follower = StepFollower()
        self._flying: deque[tuple[SchedulerOutput, StepWork, float]] = deque()
        self._lines: list[str] = []
        self._last_s: float | None = None  # the result before; None: not to be measured from

    def scheduled(self, output: SchedulerOutput, now_s: float) -> None:
        """A step goes to the device."""
        work = self._follower.of(output)
        if output.num_scheduled_tokens:
            self._flying.append((output, work, now_s))

    def done(self, output: SchedulerOutput, now_s: float) -> None:
        """Its result has come."""
        while self._flying:
            found, work, scheduled_s = self._flying.popleft()
            if found is not output:  # it never came back
                self._last_s = None
                continue
            last_s, self._last_s = self._last_s, now_s
            if last_s is not None:
                overlapped = scheduled_s <= last_s
                self._note(work, now_s, now_s - max(scheduled_s, last_s), overlapped)
            return

    def flush(self) -> None:
        """Write what is noted."""
        self._file.write("".join(self._lines))
        self._file.flush()
        self._lines = []
        self._last_s = None

    def close(self) -> None:
        """Write the rest; may be called more than once."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def _note(self, work: StepWork, now_s: float, seconds: float, overlapped: bool) -> None:
        if seconds <= 0:
            return
        step = MeasuredStep(
            at_s=now_s,
            seconds=seconds,
            overlapped=overlapped,
            prefill_tokens=work.prefill_tokens,
            prefill_attention=work.prefill_attention,
            decode_requests=work.decode_tokens,
            context_tokens=work.context_tokens,
        )
        self._lines.append(step.to_line())
        if len(self._lines) >= LINES:
            self.flush()


class StepLogScheduler(EWSJFScheduler):
    """`EWSJFScheduler` with a `StepLog`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        path = self.vllm_config.additional_config.get(KEY)
        if not isinstance(path, str):
            raise ConfigError(f"additional_config[{KEY!r}]: expected the path of a file")
        try:
            self._step_log = StepLog(Path(path))
        except OSError as error:
            raise ConfigError(f"additional_config[{KEY!r}]: {error}") from None

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """As ever, and a note of what was scheduled."""
        output = super().schedule(*args, **kwargs)
        self._step_log.scheduled(output, time.monotonic())
        return output

    def update_from_output(self, scheduler_output: SchedulerOutput, *args: Any) -> dict[int, Any]:
        """As ever, after a note of when the result came."""
        self._step_log.done(scheduler_output, time.monotonic())
        return super().update_from_output(scheduler_output, *args)

    def shutdown(self) -> None:
        """As ever, and the log is closed."""
        self._step_log.close()
        super().shutdown()
