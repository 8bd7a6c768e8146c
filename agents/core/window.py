"""The record of a window: one line of windows.jsonl, and all that is ever shown of the window.

    plan        what was to be done: episode, trace, what the agent proposed and as what
    served      what really ran
    score       the reward and the margins of the constraints
    metrics     of the window; reference: of the reference policy on the same traffic
    traffic     arrivals, and the backlog at the end
    guard       what the guard made of it, and its state before and after
    agent       what the agent was shown, and said of itself
    requests    for agents that serve them again

A field is declared once, at its part: `info` shows it, a line keeps it, and its tag names it in
TensorBoard and progress.csv.  A line is only ever written whole, but people edit files, and disks
fail: all of it is looked at before an agent or an engine is told anything of it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeVar

from agents.core.agent import CANDIDATE, Transition
from agents.core.requests import RecordedTraffic
from ewsjf_env.config import ConfigError, check_range, from_dict, to_dict
from ewsjf_env.env.guard import GuardReport, GuardState
from ewsjf_env.env.outcome import DrawnTrace, Score, Served, Values, plain
from ewsjf_env.measure.records import WindowMetrics
from ewsjf_env.measure.tags import names, plain_number, scalars, tag
from ewsjf_env.measure.traffic import TrafficStatistics
from ewsjf_env.parameters import ParameterSpace
from ewsjf_env.strict_json import unique_keys

Measured = TypeVar("Measured", WindowMetrics, TrafficStatistics)


@dataclass(frozen=True)
class Plan:
    """What was to be done in a window.

    Attributes:
        episode: its number in the run, from 0.
        step: number of the window in its episode, from 0.
        trace: of the episode.
        proposed: what the agent wanted to try.
        incumbent: what it would have served by then.
        role: what the proposal was for, in the agent's own word.
    """

    episode: int
    step: int
    trace: DrawnTrace
    proposed: Values
    incumbent: Values = tag("incumbent/{}")
    role: str = CANDIDATE


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the agent was shown, and said.

    Attributes:
        before: features in [-1, 1] by which it proposed, and `observation_before`: all it could
            have had.
        context: the features after the window, and `observation`: all of it.
        void: nothing can be learnt: nobody had to wait, or the traffic shifted meanwhile.
        shifted: the traffic did.
        ended: the episode ends with this window.
        diagnostics: the agent's own numbers about its proposal, by tag.
    """

    before: tuple[float, ...]
    context: tuple[float, ...]
    observation_before: tuple[float, ...]
    observation: tuple[float, ...]
    void: bool = tag("safety/void")
    shifted: bool
    ended: bool
    diagnostics: Mapping[str, float] = tag("{}")


@dataclass(frozen=True)
class Guarded:
    """What the guard made of a window, and what it knew before and after."""

    report: GuardReport
    before: GuardState
    after: GuardState


@dataclass(frozen=True)
class WindowRecord:
    """One window of a run, by its number from 0; see the module."""

    window: int
    plan: Plan
    served: Served
    score: Score
    metrics: WindowMetrics | None
    reference: WindowMetrics | None
    traffic: TrafficStatistics | None
    guard: Guarded | None
    agent: Shown
    requests: RecordedTraffic | None = None

    @property
    def measured(self) -> bool:
        """An agent can learn from it."""
        return not self.agent.void and self.served.failure is None

    def transition(self) -> Transition:
        """What an agent is shown of the window."""
        return Transition(
            window=self.window,
            values=self.served.values,
            reward=self.score.reward,
            reward_se=self.score.reward_se,
            margins=self.score.margins,
            context=self.agent.context,
            before=self.agent.before,
            void=self.agent.void,
            shifted=self.agent.shifted,
            failure=self.served.failure,
            ended=self.agent.ended,
            requests=self.requests,
            proposed=self.plan.proposed,
            role=self.plan.role,
        )

    def scalars(self, space: ParameterSpace) -> dict[str, float]:
        """Numbers by tag; what was not measured is left out.

        A choice among words is its place in the list of `space`.
        """

        def number(key: str, value: Any) -> float | None:
            if isinstance(value, str):
                return float(space[key].choices.index(value))
            return plain_number(key, value)

        report = GuardReport() if self.guard is None else self.guard.report
        parts = (self.score, self.metrics, self.traffic, self.plan, self.served, report, self.agent)
        found: dict[str, float] = {}
        for part in parts:
            found |= {} if part is None else scalars(part, number)
        beside = {} if self.reference is None else scalars(self.reference)
        return found | {ours: beside[of] for of, ours in _BESIDE.items() if of in beside}

    def to_json(self) -> dict[str, Any]:
        """Plain values: a line of windows.jsonl."""
        data: dict[str, Any] = to_dict(self)
        data |= {name: plain(getattr(self, name)) for name in _MEASURED}
        return {key: value for key, value in data.items() if key != "requests" or value is not None}

    @classmethod
    def from_json(
        cls, line: bytes, number: int, space: ParameterSpace, sees: Sequence[str], where: str
    ) -> WindowRecord:
        """Inverse of `to_json`; what later versions may have added is left out.

        Args:
            line: without its end.
            number: of the window, from 0.
            space: what the run tunes.
            sees: names of what its agent is given.
            where: names file and line in an error.

        Raises:
            ConfigError: naming the field, what it is, and what is expected.
        """
        try:
            data = json.loads(line, object_pairs_hook=unique_keys)
            found = data["window"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError):
            raise ConfigError(f"{where}: not a window") from None
        except ValueError as error:  # a key is given twice
            raise ConfigError(f"{where}: not a window: {error}") from None
        if found != number:
            raise ConfigError(f"{where}: window {found!r}, not {number}")
        for field in dataclasses.fields(cls):
            if field.default is dataclasses.MISSING and field.name not in data:
                raise ConfigError(f"{where}: not a window: it lacks {field.name!r}")
        _refuse_unbounded(data, where)
        data |= {
            name: _measured(k, data[name], f"{where}: {name}") for name, k in _MEASURED.items()
        }
        record = from_dict(cls, _known(cls, data), where)
        record._check(space, sees, where)
        return record

    def _check(self, space: ParameterSpace, sees: Sequence[str], where: str) -> None:
        plan, agent = self.plan, self.agent
        _check_values(self.served.values, space, f"{where}: served: values")
        _check_values(plan.proposed, space, f"{where}: plan: proposed")
        _check_values(plan.incumbent, space, f"{where}: plan: incumbent")
        _check_features(agent.before, sees, f"{where}: agent: before")
        _check_features(agent.context, sees, f"{where}: agent: context")
        check_range(f"{where}: plan: episode", plan.episode, 0, self.window)
        check_range(f"{where}: plan: step", plan.step, 0, self.window)
        check_range(f"{where}: score: reward_se", self.score.reward_se, 0.0)


def tag_names(keys: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The tags of a record's numbers, but for those whose keys nobody knows before.

    Args:
        keys: of `values`, `incumbent`, `terms` and `margins`, by name.
    """
    parts = (Score, WindowMetrics, TrafficStatistics, Plan, Served, GuardReport, Shown)
    return (*(name for part in parts for name in names(part, keys)), *_BESIDE.values())


_MEASURED: Mapping[str, Any] = {
    "metrics": WindowMetrics,
    "reference": WindowMetrics,
    "traffic": TrafficStatistics,
}
_BESIDE = {
    field.metadata["tag"]: f"reference/{field.metadata['tag'].partition('/')[2]}"
    for field in dataclasses.fields(WindowMetrics)
    if field.metadata.get("beside")
}


def _known(kind: type, data: Any) -> Any:
    """Data without keys that are no field; what is no mapping is for `from_dict` to refuse."""
    if not isinstance(data, Mapping):
        return data
    inner = _parts(kind)
    return {
        field.name: _known(inner[field.name], data[field.name])
        if field.name in inner
        else data[field.name]
        for field in dataclasses.fields(kind)
        if field.name in data
    }


@functools.cache
def _parts(kind: type) -> dict[str, type]:
    """The fields of a dataclass that are dataclasses, or None."""
    found: dict[str, type] = {}
    for name, hint in typing.get_type_hints(kind).items():
        for option in (hint, *typing.get_args(hint)):
            if isinstance(option, type) and dataclasses.is_dataclass(option):
                found[name] = option
    return found


def _measured(kind: type[Measured], data: Any, where: str) -> Measured | None:
    """Statistics of a window, numbers as they stand; null is what was not measured."""
    if data is None:
        return None
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {data!r}")
    fields = [field for field in dataclasses.fields(kind) if field.name in data]
    for field in fields:
        value, is_list = data[field.name], str(field.type).startswith("tuple")
        if is_list and not isinstance(value, list):
            raise ConfigError(f"{where}: {field.name}: expected a list, got {value!r}")
        for item in value if is_list else (value,):
            if item is not None and not isinstance(item, (int, float)):
                raise ConfigError(f"{where}: {field.name}: expected a number, got {item!r}")
    for field in dataclasses.fields(kind):
        if field.name not in data and field.default is dataclasses.MISSING:
            raise ConfigError(f"{where}: missing key {field.name!r}")
    found: Any = kind.from_dict({field.name: data[field.name] for field in fields})
    return typing.cast("Measured", found)


def _refuse_unbounded(value: Any, where: str) -> None:
    """Python reads NaN and Infinity, which no JSON may hold, and 1e999."""
    if isinstance(value, float):
        check_range(where, value)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_unbounded(item, f"{where}: {key}")
    elif isinstance(value, list) and not all(
        type(item) is float and isfinite(item) for item in value
    ):
        for index, item in enumerate(value):
            _refuse_unbounded(item, f"{where}[{index}]")


def _check_values(values: Mapping[str, Any], space: ParameterSpace, where: str) -> None:
    space.validate(values, where)
    for parameter in space.parameters:
        if parameter.name not in values:
            raise ConfigError(
                f"{where}: parameter {parameter.name!r} is missing, expected {parameter.allowed}"
            )


def _check_features(features: Sequence[float], sees: Sequence[str], where: str) -> None:
    if len(features) != len(sees):
        named = f" ({', '.join(sees)})" if 0 < len(sees) <= 4 else ""
        raise ConfigError(f"{where}: expected {len(sees)} numbers{named}, got {len(features)}")
    for index, feature in enumerate(features):
        check_range(f"{where}[{index}]", feature, -1.0, 1.0)
