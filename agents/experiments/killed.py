"""What is known of a worker process that was killed, and what is said of it?"""

from __future__ import annotations

from typing import Any

from joblib.externals.loky.process_executor import TerminatedWorkerError

KILLED = "its worker process was killed (out of memory?)"


class WorkerKilled(TerminatedWorkerError):  # type: ignore[misc]
    """Ray's way to say it: all others go on, and it is known what was killed."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        """`arguments`: of the call whose worker was killed."""
        super().__init__(KILLED)
        self.arguments = arguments
