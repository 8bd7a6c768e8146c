"""The measured steps of a real vLLM: a line of JSON for each, written by `step_log.py`.

What was computed has the notation of `latency.py`, so that `LatencyModel.fit` takes the lines as
they are.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ewsjf_env.config import ConfigError, refuse_irregular

KEY = "ewsjf_step_log"
"""The entry of vLLM's `additional_config` that names the file to write."""


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """One step.

    Attributes:
        at_s: when its result was there, seconds on the host's monotonic clock.
        seconds: from when the device had it, and nothing else to do, until then; > 0.
        overlapped: it was scheduled while the step before ran (asynchronous scheduling), so
            `seconds` holds no work of the host.
        prefill_tokens, prefill_attention, decode_requests, context_tokens: as in `latency.py`; a
            draft of speculative decoding counts as a request more.
    """

    at_s: float
    seconds: float
    overlapped: bool
    prefill_tokens: int
    prefill_attention: float
    decode_requests: int
    context_tokens: int

    def to_line(self) -> str:
        """JSON, with a line end."""
        return json.dumps(asdict(self)) + "\n"


def read_steps(path: str | Path) -> list[MeasuredStep]:
    """Read a log; a last line that was cut off by a kill is left out.

    Raises:
        ConfigError: the file cannot be read, or another line is no step.
    """
    refuse_irregular(path)
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [_step(line, f"{path}: line {number}") for number, line in enumerate(lines, 1)]


def _step(line: str, where: str) -> MeasuredStep:
    names = [field.name for field in fields(MeasuredStep)]
    try:
        data = json.loads(line)
        step = MeasuredStep(**{name: data[name] for name in names})
        legal = all(math.isfinite(getattr(step, name)) for name in names) and step.seconds > 0
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        legal = False
    if not legal:
        raise ConfigError(f"{where}: is no measured step, expected finite {', '.join(names)}")
    return step
