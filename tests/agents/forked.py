"""`train.py` in processes of its own that end as they are told: killed, out of disk, by Ctrl-C.

One process imports everything and forks a child for each command, so that twenty kills cost
twenty forks and not twenty imports of vLLM, torch and Optuna.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CRASHED = 70  # an exception that the command did not turn into one line


class Trainer:
    """The process that forks; one command at a time."""

    def __init__(self, log: Path) -> None:
        """Start it; what the commands print goes to `log`, that of the last command only."""
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.agents.forked"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def start(self, arguments: Sequence[str], **fault: Any) -> int:
        """Fork; the pid.  For `fault` see `_FAULTS`."""
        assert self._process.stdin is not None
        command = {"arguments": list(arguments), "log": str(self._log), "fault": fault}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def wait(self) -> int:
        """Exit code of what was started, or minus the signal that ended it."""
        return int(self._answer())

    def train(self, *arguments: str, **fault: Any) -> int:
        """Run a command to its end; see `wait`."""
        self.start(arguments, **fault)
        return self.wait()

    @property
    def printed(self) -> str:
        """What the last command printed."""
        return self._log.read_text()

    @property
    def errors(self) -> list[str]:
        """The lines about errors in it, those of a traceback, too."""
        marks = ("error: ", "Error: ", "Traceback")
        return [line for line in self.printed.splitlines() if any(m in line for m in marks)]

    @property
    def error(self) -> str:
        """The one line about an error in it."""
        (line,) = self.errors
        return line

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process: unlike wall time, about the same on a busy machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _serve() -> None:
    import torch.utils.tensorboard  # noqa: F401  (a child would take seconds for it)

    from agents.cli.train import main

    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_child(main, **command))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _child(
    main: Callable[[Sequence[str]], int], arguments: list[str], log: str, fault: dict[str, int]
) -> int:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for name, value in fault.items():
            _FAULTS[name](value)
        return main(arguments)
    except BaseException:
        traceback.print_exc()
        return CRASHED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _die_at(point: int) -> None:
    """SIGKILL at this moment, counted over those before, amid and after each write to a file."""
    from optuna.storages.journal import JournalFileBackend

    from agents.core.files import LineFile
    from agents.runs.tensorboard.tracker import EventFile, ProgressTable

    left = point

    def moment(path: Path | None = None, half: bytes = b"") -> None:
        nonlocal left
        left -= 1
        if left == 0:
            if path is not None:
                with path.open("ab", buffering=0) as file:
                    file.write(half)
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(cls: Any, method: str, chunk: Callable[[Any, Any], tuple[Path, bytes]]) -> None:
        write = getattr(cls, method)

        def dying(self: Any, *content: Any) -> None:
            path, data = chunk(self, content[0])
            moment()
            moment(path, data[: len(data) // 2])
            write(self, *content)
            moment()

        setattr(cls, method, dying)

    watched(LineFile, "append", lambda file, row: (file.path, _json(row)))
    watched(ProgressTable, "add", lambda table, _: (table._path, b"7,half a li"))
    watched(EventFile, "add", lambda events, _: (events._path, bytes(11)))
    watched(
        JournalFileBackend,
        "append_logs",
        lambda journal, logs: (Path(journal._file_path), b"\n".join(map(_json, logs))),
    )


def _limit_files_to(size: int) -> None:
    """Files cannot grow beyond so many bytes: the kernel's stand-in for a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _fill_journal_after(windows: int) -> None:
    """The study's journal cannot grow by more than 100 bytes once so many windows are written."""
    from agents.bayes.journal import JOURNAL
    from agents.runs.folder import RunDir

    append, left = RunDir.append, windows

    def filling(run: RunDir, record: Any) -> None:
        nonlocal left
        append(run, record)
        left -= 1
        if left == 0:
            _limit_files_to((run.path / JOURNAL).stat().st_size + 100)

    RunDir.append = filling  # type: ignore[method-assign]


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


_FAULTS: dict[str, Callable[[int], None]] = {
    "die_at": _die_at,
    "limit_files_to": _limit_files_to,
    "fill_journal_after": _fill_journal_after,
}


if __name__ == "__main__":
    _serve()
