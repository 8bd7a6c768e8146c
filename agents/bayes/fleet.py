"""The study that several tuners share to learn from each other's windows, each run whole by itself.

Every run has its own study.  The shared one, in a storage that all tuners reach, is where they
meet: a run adds its windows to it, and before each proposal takes over what others have added.
What was taken over, and before which window, stands in `shared.jsonl` in the run's folder, on the
disk before the agent learns from it: a run that is resumed or exported learns the same at the same
place, and needs the storage for neither.

A storage that is away for a time is waited for no longer than a question takes.  The run goes on
alone, and what was not added then is added later.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from agents.bayes.journal import open_journal, quiet
from agents.bayes.storage import failures, open_storage, reaching, reason
from agents.bayes.trials import CONTEXT, FAILURE, ROLE, SHARED, STANDARD_ERROR, WINDOW
from ewsjf_env.config import ConfigError

FILE = "shared.jsonl"
RUN, NAME = "run", "run_name"
_COPIED = (CONTEXT, STANDARD_ERROR, ROLE, FAILURE)
_FINISHED = (TrialState.COMPLETE, TrialState.FAIL)


@dataclass(frozen=True)
class Found:
    """A window of another run.

    Attributes:
        before: it was taken over before this window of ours.
        run: whose it is.
        window: its number there.
        values: of all parameters.
        reward: None: the window failed.
        constraints: margins, feasible when <= 0.
        attributes: what is known of it beside; keys as in `trials.py`.
    """

    before: int
    run: str
    window: int
    values: Mapping[str, Any]
    reward: float | None
    constraints: Mapping[str, float]
    attributes: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Names it among all runs."""
        return f"{self.run}/{self.window}"

    def trial(self, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
        """As a trial of our own study."""
        return optuna.create_trial(
            state=TrialState.FAIL if self.reward is None else TrialState.COMPLETE,
            value=self.reward,
            params=dict(self.values),
            distributions=dict(distributions),
            user_attrs={**self.attributes, SHARED: self.key},
            constraints=dict(self.constraints),
        )


class Recorded:
    """What a run has taken over, from its folder alone: nothing is asked for or added.

    Attributes:
        found: in the order in which it was taken over.
        run: name of this run among all; "" where it never had one.
    """

    def __init__(self, folder: Path) -> None:
        """Read the folder; what a killed process left of a line does not count."""
        self.run = ""
        self.found: list[Found] = []
        self._path = folder / FILE
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        try:
            lines = [json.loads(line) for line in content.split(b"\n")[:-1]]
            if lines:
                self.run = str(lines[0][RUN])
            self.found = [Found(**line) for line in lines[1:]]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._path}: damaged: {error}") from None

    def gather(self, window: int) -> None:
        """Take over what others have added, before this window of ours."""

    def publish(self, trials: Iterable[FrozenTrial]) -> None:
        """Add our windows, of all trials that count."""


class SharedStudy(Recorded):
    """The study that several runs share; see the module."""

    def __init__(
        self, storage: str, name: str, marks: Mapping[str, str | int], folder: Path
    ) -> None:
        """Reach the storage; the study is made where it is missing.

        Args:
            storage: see `storage.check_storage`.
            name: of the study.
            marks: what must be the same of all that share it.
            folder: of the run.

        Raises:
            ConfigError: it cannot be reached, or is a study of something else.
        """
        super().__init__(folder)
        self._folder, self._storage = folder, storage
        self._study = open_shared(storage, name, marks)
        self._known = {found.key for found in self.found}
        self._published: set[int] = set()
        self._away = False
        self._cut_half_line()
        if not self.run:
            self.run = uuid.uuid4().hex[:12]
            self._append({RUN: self.run})

    def gather(self, window: int) -> None:
        """See `Recorded`; nothing where the storage is away."""
        for trial in self._finished():
            run, number = trial.user_attrs[RUN], trial.user_attrs[WINDOW]
            found = Found(
                before=window,
                run=run,
                window=number,
                values=trial.params,
                reward=trial.value if trial.state == TrialState.COMPLETE else None,
                constraints=trial.constraints,
                attributes={k: trial.user_attrs[k] for k in _COPIED if k in trial.user_attrs},
            )
            if run != self.run and found.key not in self._known:
                self._append(vars(found))
                self._known.add(found.key)
                self.found.append(found)

    def publish(self, trials: Iterable[FrozenTrial]) -> None:
        """See `Recorded`; what is there already is left alone."""
        todo = [
            trial
            for trial in trials
            if WINDOW in trial.user_attrs and trial.user_attrs[WINDOW] not in self._published
        ]
        if not todo:
            return
        there = self._finished()  # another process of ours may have added some and been killed
        self._published |= {t.user_attrs[WINDOW] for t in there if t.user_attrs[RUN] == self.run}
        for trial in todo:
            number = trial.user_attrs[WINDOW]
            if self._away:
                return
            if number in self._published:
                continue
            attributes = {k: trial.user_attrs[k] for k in _COPIED if k in trial.user_attrs}
            names = {RUN: self.run, NAME: self._folder.resolve().name, WINDOW: number}
            copy = optuna.create_trial(
                state=trial.state,
                value=trial.value,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={**attributes, **names},
                constraints=trial.constraints,
            )
            try:
                self._study.add_trial(copy)
            except failures() as error:
                self._note_away(error)
            else:
                self._published.add(number)

    def _finished(self) -> list[FrozenTrial]:
        """All windows of all runs; none where the storage is away."""
        try:
            trials = self._study.get_trials(deepcopy=False, states=_FINISHED)
        except failures() as error:
            self._note_away(error)
            return []
        if self._away:
            print(f"storage: {self._storage}: answers again", file=sys.stderr)
        self._away = False
        return [t for t in trials if RUN in t.user_attrs and WINDOW in t.user_attrs]

    def _note_away(self, error: Exception) -> None:
        if not self._away:
            text = f"storage: {self._storage}: {reason(error)}; the run goes on alone meanwhile"
            print(text, file=sys.stderr)
        self._away = True

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            text = json.dumps(line, separators=(",", ":")).encode() + b"\n"
            try:
                if file.write(text) != len(text):
                    raise OSError("only a part of the line could be written")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def _cut_half_line(self) -> None:
        if self._path.exists():
            content = self._path.read_bytes()
            os.truncate(self._path, content.rfind(b"\n") + 1)


def open_shared(storage: str, name: str, marks: Mapping[str, str | int]) -> Study:
    """The shared study itself; see `SharedStudy`."""
    with reaching(storage):
        where = f"storage: {storage}: study {name!r}"
        return _marked_study(open_storage(storage, open_journal), where, name, marks)


def _marked_study(
    storage: BaseStorage, where: str, name: str, marks: Mapping[str, str | int]
) -> Study:
    """The study `name`, to be maximised, of a storage that may hold others; made when missing.

    Raises:
        ConfigError: it is one of other marks; `where` begins the line.
    """
    with quiet():
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
    # load_if_exists takes a study of the other direction without a word.
    if study.directions != [StudyDirection.MAXIMIZE]:
        raise ConfigError(f"{where}: study {name!r} is not to be maximised")
    for key, value in marks.items():
        # A kill right after the study was created leaves it without marks, and without trials.
        if key not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr(key, value)
        found = study.user_attrs.get(key)
        if found != value:
            raise ConfigError(
                f"{where}: {key} is {found!r}, this run's is {value!r}; "
                "set `study` to the name of another"
            )
    return study
