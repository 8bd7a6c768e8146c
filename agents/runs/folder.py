"""The folder of a run: what a run leaves behind, and how it is opened again.

    config.yaml     everything that decides the windows (`RunConfig`)
    windows.jsonl   one line a window (`WindowRecord`): the truth
    shared.jsonl    what was learnt from other runs, and before which window (`bayes.fleet`)
    command.txt     how it was started, a line a start
    versions.json   commit, packages, hash of the latency model
    timing.jsonl    wall times, a line a window (`timing`)
    study.journal   of agents on an Optuna study, for its dashboard
    progress.csv, events.out.tfevents.*   for people (`tensorboard`)
    summary.json    what comparisons read; policy.json: the recommendation

A line of windows.jsonl is written whole and reaches the disk before the agent learns from it.
What a killed process left of a line is cut off when the folder is opened again.  All that stands
below shared.jsonl can be deleted: a resumed run makes it again, but for the past's wall times.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from agents.core.files import LineFile, write_json, write_text
from agents.core.provenance import git_state
from agents.core.registry import label_of
from agents.core.window import WindowRecord
from agents.runs.config import RunConfig
from ewsjf_env.config import ConfigError, load_yaml
from ewsjf_env.engine.simulated.latency import LatencyModel

CONFIG, WINDOWS, SUMMARY = "config.yaml", "windows.jsonl", "summary.json"
VERSIONS, LOCK = "versions.json", ".lock"
OF_A_RUN = (
    *(WINDOWS, "shared.jsonl", "timing.jsonl", SUMMARY),
    *("command.txt", "progress.csv", "events.out.tfevents.*"),
)
"""Names of what only a run that had its `CONFIG` leaves in its folder."""
PACKAGES = ("vllm", "torch", "gymnasium", "stable-baselines3", "optuna", "numpy", "scipy")


def default_folder(config: RunConfig, now: datetime | None = None) -> Path:
    """runs/<environment>/<agent>/<workload>/seed_<seed>__<UTC stamp>."""
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    environment = config.environment_id.replace("/", "_")
    workload = Path(config.env.workload).name.split(".")[0]
    return Path(
        "runs", environment, label_of(config.agent), workload, f"seed_{config.seed:04d}__{stamp}"
    )


def check_new(path: Path) -> None:
    """ConfigError for a folder that holds a run already, or what is left of one."""
    if (path / CONFIG).exists():
        raise ConfigError(
            f"{path}: holds a run already; --resume continues it, or name another folder"
        )
    left = [file.name for pattern in OF_A_RUN for file in sorted(path.glob(pattern))]
    if left:
        raise ConfigError(
            f"{path}: holds {left[0]} of a run whose {CONFIG} is missing; put that file back and "
            "--resume the run, or name another folder"
        )


class RunDir:
    """One run's folder; `close` lets another process have it.

    Attributes:
        path: the folder.
        config: what the run is.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.config = config
        self._lock: IO[bytes] | None = None
        self._made: list[Path] = []  # folders that `withdraw` may remove, the run's own first
        self._mine: tuple[str, ...] = ()  # files that it may remove
        self._windows = LineFile(path / WINDOWS)

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunDir:
        """Make the folder of a new run and lock it.

        Raises:
            ConfigError: it holds a run already, or cannot be written.
        """
        run = cls(path, config)
        try:
            check_new(path)
            run._make_folder()
            run._take_lock()
            check_new(path)  # another process may have been faster
            run._begin()
        except OSError as error:
            run.withdraw()
            raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None
        except ConfigError:
            run.withdraw()
            raise
        return run

    @classmethod
    def open(cls, path: str | Path, *, lock: bool = False) -> RunDir:
        """Open the folder of a run.

        Args:
            path: the folder.
            lock: for writing; without it the folder is only read.

        Raises:
            ConfigError: no run, one of another version or space, or in use by another process.
        """
        path = Path(path)
        if path.is_file():
            raise ConfigError(f"{path}: is a file, expected the folder of a run")
        if not (path / CONFIG).is_file():
            raise ConfigError(f"{path}: holds no run ({CONFIG} is missing)")
        where = path / CONFIG
        run = cls(path, RunConfig.from_dict(load_yaml(where), str(where)))
        if lock:
            run._take_lock()
            run._windows.mend()
            if not (path / VERSIONS).exists():
                run._note_versions()
        return run

    def windows(self) -> list[WindowRecord]:
        """All whole lines of windows.jsonl, numbered 0, 1, ...

        Raises:
            ConfigError: a line is damaged, missing or there twice; it names line and field.
        """
        path, space, sees = self._windows.path, self.config.task.space(), self.config.sees
        return [
            WindowRecord.from_json(line, number, space, sees, f"{path}: line {number + 1}")
            for number, line in enumerate(self._windows.lines())
        ]

    def append(self, record: WindowRecord) -> None:
        """Write one window; it is on the disk when this returns.

        Raises:
            OSError: the disk is full, for example; the file then ends as it did before.
        """
        self._windows.append(record.to_json())

    def note_command(self, arguments: Sequence[str] | None = None) -> None:
        """Add the command line of this start to command.txt."""
        words = [sys.executable, *sys.argv] if arguments is None else list(arguments)
        with (self.path / "command.txt").open("a", encoding="utf-8") as file:
            file.write(shlex.join(words) + "\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace summary.json, whole or not at all."""
        write_json(self.path / SUMMARY, summary)

    def discard_summary(self) -> None:
        """Remove summary.json until the next is written."""
        (self.path / SUMMARY).unlink(missing_ok=True)

    def summary(self) -> dict[str, Any] | None:
        """The last summary; None before the first."""
        try:
            data = json.loads((self.path / SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def close(self) -> None:
        """Release the lock; may be called more than once."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def withdraw(self) -> None:
        """Close, and remove what `create` has made: for a run that fails before it begins.

        A folder that another process works in, or that was there before with files of its own,
        keeps these files.  Nothing is removed of a run that was opened.
        """
        if self._mine:
            for name in self._mine:
                (self.path / name).unlink(missing_ok=True)
            if self._made:  # whatever an agent has left there meanwhile
                shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # a folder is not empty: it has become somebody's
            for folder in self._made:
                if folder.exists():
                    folder.rmdir()
        self.close()

    def _make_folder(self) -> None:
        folders = (self.path, *self.path.parents)
        self._made = [folder for folder in folders if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)

    def _begin(self) -> None:
        """Write the files of a new run: last the one by which its folder is known."""
        self._mine = (CONFIG, VERSIONS, LOCK)
        self._note_versions()
        write_text(self.path / CONFIG, yaml.safe_dump(self.config.to_dict(), sort_keys=False))

    def _note_versions(self) -> None:
        versions = {
            "git": git_state(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
            "latency_sha256": _latency_hash(self.config),
        }
        write_json(self.path / VERSIONS, versions)

    def _take_lock(self) -> None:
        """The kernel's lock: it ends with the process, however that ends."""
        lock = (self.path / LOCK).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ConfigError(f"{self.path}: another process is working on this run") from None
        self._lock = lock


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _latency_hash(config: RunConfig) -> str | None:
    if not config.env.has_model:
        return None
    model = LatencyModel.load(config.env.simulated.latency, "simulated.latency")
    return hashlib.sha256(repr(model).encode()).hexdigest()[:16]
