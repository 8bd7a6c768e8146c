"""The Gymnasium environment: one step is one window of traffic under chosen parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box

from ewsjf_env.config import ConfigError, refuse_unknown
from ewsjf_env.engine.base import Engine, EngineError, OutlivesTuner
from ewsjf_env.env.episode import AbortRule, Episode, WindowResult
from ewsjf_env.env.outcome import (
    Action,
    DrawnTrace,
    Observation,
    Score,
    Served,
    WindowOutcome,
    WindowPlan,
)
from ewsjf_env.env.reference import Reference
from ewsjf_env.env.task import Task, load_tuning
from ewsjf_env.env.viewer import render_bars, render_text
from ewsjf_env.measure.constraints import margins
from ewsjf_env.measure.features import feature_names, observe
from ewsjf_env.measure.jackknife import jackknife_se
from ewsjf_env.measure.objective import Outcome
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.parameters import ParameterSpace, Value
from ewsjf_env.policy.policy import Policy
from ewsjf_env.seeds import TRAINING
from ewsjf_env.workload import Trace, load_workload

_OPTIONS = ("trace_seed", "rate_per_s", "values")


class SchedulerTuningEnv(gymnasium.Env[Observation, Action]):
    """Tune the parameters of a scheduling policy while requests keep arriving.

    ## Description
    Requests of a drawn trace wait in the queues of a scheduler inside vLLM.  One step puts
    parameter values in force, discards `settle_s` seconds and measures the `window_s` seconds
    after them.  Requests stay where they are between windows.  A second engine serves the same
    trace under a reference policy, so that the reward says what the parameters did, not what
    the traffic did.

    ## Action Space
    `Box(-1, 1, (d,), float32)`, one entry for each tuned parameter of the policy's order, in
    the order of `parameter_space.names`.  [-1, 1] spans the parameter's range, in its logarithm
    or its whole numbers or choices where it has such a scale.  Actions outside are clipped.
    For the default policy `ewsjf` (d = 9):

    | Num | Parameter       | Range                    | Meaning                            |
    |-----|-----------------|--------------------------|------------------------------------|
    | 0   | `lambda`        | [0, 2]                   | power of the wait                  |
    | 1   | `mu`            | [-1, 1]                  | power of the cost                  |
    | 2   | `k`             | [0.05, 500] log          | weight of the cost                 |
    | 3   | `w_fair`        | [-1, 1]                  | weight of the length               |
    | 4   | `delta`         | [-0.5, 0.5]              | weight of the queue's density      |
    | 5   | `alpha`         | [0.75, 4] log            | gap threshold of the partition     |
    | 6   | `homogeneity`   | [1.2, 8] log             | most length ratio inside a queue   |
    | 7   | `q_max`         | 4, 8, 16 or 32           | most queues                        |
    | 8   | `overdue_share` | [0, 0.5]                 | token share of overdue requests    |

    ## Observation Space
    `Box(-1, 1, (n,), float32)`: the features of the window just measured, by the fixed scales
    of `features.FEATURES`, then the parameters in force as an action.  Names: `feature_names`.

    | Features                                    | Range, scale and unit                  |
    |---------------------------------------------|----------------------------------------|
    | arrival rate                                | [0.05, 200] log, 1/s                   |
    | burst index (variance/mean of 1 s counts)   | [0.1, 30] log                          |
    | mean prompt length                          | [16, 65536] log, tokens                |
    | share of six length classes, count and work | [0, 1], 12 entries                     |
    | queue depth, running requests               | [1, 10000] and [1, 1024] log           |
    | oldest age, longest wait                    | [0.05, 3600] log, s                    |
    | KV-cache usage, overdue share               | [0, 1]                                 |
    | TTFT: median; mean, p95 of short and long   | [0.01, 3600] log, s                    |
    | p95 slowdown of long requests               | [1, 10000] log                         |
    | output tokens per second                    | [10, 100000] log, 1/s                  |
    | finished per arrival                        | [0, 2]                                 |
    | queues                                      | [1, 32] log                            |
    | d parameters in force                       | as in the action                       |

    ## Rewards
    By `objective` of the configuration; the default is J of ALGORITHM section 6, 0 when the
    window is as good as the reference's, larger is better.  Requests that have not finished
    count with their age.  `info["reward_terms"]` holds the terms that add up to the reward.

    ## Starting State
    A fresh trace of `windows` windows, drawn from `np_random` (arrival rate and seed), of which
    `warmup_s` seconds were served under the policy's own values.  `options` of `reset` may fix
    `trace_seed` and `rate_per_s`; the random stream moves on as if they had been drawn.  With
    `values`, parameters by name, these are in force from the beginning in place of the policy's.

    ## Episode End
    The episode terminates only when the engine has failed; that window's reward is
    `failure_reward` and `info["error"]` says why; `reset` starts a new engine.  It is truncated
    after `windows` windows, whatever made the environment; stepping past them raises
    `ResetNeeded`.

    ## Information
    `parameters` (all values in force), `executed_action` (the tuned ones as an action, after
    rounding), `metrics`, `reference`, `traffic`, `cuts`, `reward_terms`, `reward_se` (standard
    error of the reward, see `precision`), `constraints` (margins, <= 0 is feasible), `aborted`,
    `error`, `start_s` and `end_s` (engine seconds), `trace` (name, seed and rate).  New objects
    every time, and no wall clock: equal seeds give equal infos.

    ## Arguments
    ```python
    import gymnasium
    env = gymnasium.make(
        "ewsjf_env:ewsjf/SchedulerTuning-v0",
        config={"workload": "bursty", "rates_per_s": [2.0], "frozen": ["delta"]},
    )
    ```
    `config`: a mapping or the path of a YAML file, see `task.Task`.  `engine`: set by
    the id, where the configuration names none.  `render_mode`: None, "ansi" or "rgb_array".
    Engines are built at the first reset.

    ## Version History
    * v0: initial version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium declares it without ClassVar)
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 4,
    }

    def __init__(
        self,
        config: Task | Mapping[str, Any] | str | Path | None = None,
        engine: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        """See the class; only validates.

        Raises:
            ConfigError: naming what is wrong in the configuration, its workload or latency model.
        """
        self.config = load_tuning(config, engine)
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode: {render_mode!r} is not one of 'ansi', 'rgb_array'")
        self.render_mode = render_mode
        self.parameter_space: ParameterSpace = self.config.space()
        self.feature_names = feature_names(self.parameter_space)
        self.action_space = Box(-1.0, 1.0, (len(self.parameter_space),), np.float32)
        self.observation_space = Box(-1.0, 1.0, (len(self.feature_names),), np.float32)
        self._start_policy = self.config.start_policy()
        self._workload = load_workload(self.config.workload)
        self.config.check_model()
        self._engine: Engine | None = None
        self._reference: Reference | None = None
        self._episode: Episode | None = None
        self._trace: DrawnTrace | None = None
        self._windows_left = 0
        self._outcome: WindowOutcome | None = None

    @property
    def start_action(self) -> Action:
        """The policy's own values as an action."""
        return self.parameter_space.to_box(self.parameter_space.defaults)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a trace, serve its warm-up and observe it; see `gymnasium.Env.reset`.

        Raises:
            ConfigError: an unknown option or value, or traffic that cannot be drawn or served.
            EngineError: the engine failed in the warm-up.
        """
        outcome = self.begin(seed, options)
        return outcome.observation.copy(), outcome.info()

    def begin(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> WindowOutcome:
        """The warm-up of a new episode, typed; arguments and errors of `reset`."""
        super().reset(seed=seed)
        given = dict(options or {})
        refuse_unknown(given, _OPTIONS, "options")
        policy = self._start_under(given.get("values"))
        trace = self._draw(given)
        try:
            result = self._start(trace, policy)
        except EngineError:
            self.close()
            raise
        self._outcome = self._judged(result)
        return self._outcome

    def step(
        self, action: Action | WindowPlan
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Serve one window under `action`; see `gymnasium.Env.step`.

        A wrapper that knows more than an action says hands on a plan in its place.

        Raises:
            ConfigError: the action is not d finite numbers.
            ResetNeeded: before the first reset, after a failure, or past the last window.
        """
        outcome = self.run(action if isinstance(action, WindowPlan) else self.plan(action))
        terminated, truncated = self.ended(outcome)
        observation, reward = outcome.observation.copy(), outcome.score.reward
        return observation, reward, terminated, truncated, outcome.info()

    def ended(self, outcome: WindowOutcome) -> tuple[bool, bool]:
        """Whether the last window, `outcome`, terminated or truncated the episode."""
        failed = outcome.served.failure is not None
        return failed, not failed and self._windows_left == 0

    def plan(
        self,
        action: Action,
        trusted: Mapping[str, Value] | None = None,
        abort: AbortRule | None = None,
    ) -> WindowPlan:
        """The plan of a window under `action`; for `trusted` and `abort` see `WindowPlan`.

        Values in force that the action stands for are left as they are: an action is float32,
        and read back a value differs in its last digits, so that a scheduler that is told it
        would serve another order of requests.

        Raises:
            ConfigError: the action is not d finite numbers.
        """
        values = self.parameter_space.from_box(action)
        if self._outcome is not None:
            in_force = self._outcome.served.values
            if np.array_equal(
                np.asarray(action, np.float32), self.parameter_space.to_box(in_force)
            ):
                values = dict(in_force)
        return WindowPlan(values, trusted, abort)

    def run(self, plan: WindowPlan) -> WindowOutcome:
        """Serve one window as planned and judge it.

        Raises:
            ConfigError: an unknown parameter or illegal value.
            ResetNeeded: before the first reset, after a failure, or past the last window.
        """
        if self._episode is None:
            raise ResetNeeded("call reset before the first step and after a failed window")
        if self._windows_left < 1:
            raise ResetNeeded(
                f"the episode has ended after its {self.config.windows} windows (`windows` of the "
                "configuration); call reset"
            )
        self._windows_left -= 1
        config = self.config
        try:
            if plan.trusted is not None:
                _trust(self._engine, plan.trusted)
            result = self._episode.window(plan.values, config.window_s, config.settle_s, plan.abort)
        except EngineError as error:
            self._outcome = self._failed(plan.values, str(error))
        else:
            self._outcome = self._judged(result)
        return self._outcome

    @property
    def outcome(self) -> WindowOutcome:
        """The last window, typed, the warm-up included: what its `info` shows.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._outcome is None:
            raise ResetNeeded("call reset before the first step and after a failed window")
        return self._outcome

    def records(self) -> tuple[list[RequestRecord], float]:
        """All requests of the episode so far, and the engine's time; () and 0 without an engine."""
        if self._engine is None:
            return [], 0.0
        return self._engine.records(), self._engine.now()

    def render(self) -> Any:
        """The last window: text for "ansi", bars of the observation for "rgb_array"."""
        if self.render_mode is None or self._outcome is None:
            return None
        if self.render_mode == "rgb_array":
            return render_bars(self._outcome.observation)
        info, parts = self._outcome.info(), ("parameters", "reward_terms", "constraints", "metrics")
        return render_text({k: v for part in parts for k, v in (info[part] or {}).items()})

    def close(self) -> None:
        """Free the engines; may be called more than once."""
        for part in (self._engine, self._reference):
            if part is not None:
                part.close()
        self._engine = self._reference = self._episode = None

    def _start_under(self, values: object) -> Policy:
        """The policy that a trace begins with."""
        if values is None:
            return self._start_policy
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise ConfigError(f"options: values: expected parameters by name, got {values!r}")
        return self._start_policy.with_parameters(values) if values else self._start_policy

    def _draw(self, options: dict[str, Any]) -> Trace:
        """Draw the episode's trace; every reset takes the same numbers off the stream."""
        config = self.config
        last = TRAINING.start + config.trace_pool if config.trace_pool else TRAINING.stop
        drawn_seed = int(self.np_random.integers(TRAINING.start, last))
        rates = config.rates_per_s
        drawn_rate = rates[int(self.np_random.integers(len(rates)))] if rates else None
        seed = options.get("trace_seed", drawn_seed)
        rate = options.get("rate_per_s", drawn_rate)
        trace = self._workload.draw(seed, config.traffic_s, rate)
        self._trace = DrawnTrace(trace.name, seed, rate)
        return trace

    def _start(self, trace: Trace, start: Policy) -> WindowResult:
        """Put the trace on the engines, built when there are none, and serve the warm-up."""
        if self._engine is None:
            self._engine = self.config.build_engine()
        policy, settings = self.config.reference_policy(), self.config.metric_settings
        if self._reference is None and policy is not None:
            self._reference = Reference(
                policy, self.config.build_engine, settings, self.config.reference_name
            )
        self._episode = Episode(self._engine, self._reference, start, trace, settings)
        self._windows_left = self.config.windows
        return self._episode.window({}, self.config.warmup_s)

    def _judged(self, result: WindowResult) -> WindowOutcome:
        """What a window that was measured is worth."""
        config = self.config
        metrics, reference, queues = result.metrics, result.reference, result.queues
        reward = config.objective.reward(Outcome(metrics, reference, queues))
        parts = [config.objective.reward(Outcome(*part, queues)).total for part in result.parts]
        found = margins(config.constraints, metrics, reference)
        assert self._trace is not None  # drawn by reset
        return WindowOutcome(
            observation=observe(metrics, result.traffic, self.parameter_space, result.parameters),
            action=self._action_of(result.parameters),
            parameters=result.parameters,
            trace=self._trace,
            served=Served(
                values=self._tuned(result.parameters),
                start_s=result.start_s,
                end_s=result.end_s,
                cuts=result.cuts,
                aborted=result.aborted,
            ),
            score=Score(
                reward=reward.total,
                reward_se=jackknife_se(parts),
                terms=reward.terms,
                margins=found,
                violation=any(margin > 0 for margin in found.values()),
            ),
            metrics=metrics,
            reference=reference,
            traffic=result.traffic,
        )

    def _failed(self, values: Mapping[str, Value], reason: str) -> WindowOutcome:
        """End the episode: the engine is gone, the next reset builds another."""
        assert self._outcome is not None  # a window was seen before this one
        before, reward = self._outcome, self.config.failure_reward
        self.close()
        parameters = {**before.parameters, **values}
        end_s = before.served.end_s
        return WindowOutcome(
            observation=before.observation,
            action=self._action_of(parameters),
            parameters=parameters,
            trace=before.trace,
            served=Served(
                values=self._tuned(parameters),
                start_s=end_s,
                end_s=end_s,
                aborted=True,
                failure=reason,
            ),
            score=Score(reward, 0.0, {"failure": reward}, {}, violation=False),
        )

    def _tuned(self, parameters: Mapping[str, Any]) -> dict[str, Value]:
        return {name: parameters[name] for name in self.parameter_space.names}

    def _action_of(self, parameters: Mapping[str, Any]) -> Action:
        return self.parameter_space.to_box(self._tuned(parameters))


def _trust(engine: object, values: Mapping[str, Value]) -> None:
    """Tell an engine that goes on without us what it may go on with."""
    if isinstance(engine, OutlivesTuner):
        engine.trust(values)
