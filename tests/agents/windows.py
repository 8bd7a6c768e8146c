"""Windows of real agents on the fake engine, as records."""

import functools
from typing import Any

from agents.core.registry import AgentSetting, agent_config, make_agent
from agents.core.window import Guarded, Plan, Shown, WindowRecord
from agents.runs.tensorboard.tags import RunFacts
from agents.runs.timing import Timing
from ewsjf_env.config import to_dict
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.guard import SafetyGuard, make_env
from ewsjf_env.env.task import load_tuning

TIMING = Timing(ask_s=0.25, observe_s=0.125, window_wall_s=1.5, ended_at_s=1_000_000.0)
TASK: dict[str, Any] = {
    "engine": "fake",
    "rates_per_s": [4.0],
    "windows": 4,
    "window_s": 10.0,
    "settle_s": 1.0,
    "warmup_s": 2.0,
    "safety": {"enabled": True},
}


def facts(agent: str, windows: int) -> RunFacts:
    settings = to_dict(agent_config(agent))
    return RunFacts.of(load_tuning(TASK), agent, seed=3, windows=windows, settings=settings)


@functools.cache
def records(agent: str, windows: int) -> tuple[WindowRecord, ...]:
    env = make_env(TASK)
    base = env.unwrapped
    assert isinstance(base, SchedulerTuningEnv)
    assert isinstance(env, SafetyGuard)
    space = base.parameter_space
    tuner = make_agent(agent, AgentSetting(space, seed=3), agent_config(agent))
    found = []
    env.reset(seed=3)
    for window in range(windows):
        proposed, before = tuner.act(), env.state()
        _, _, terminated, truncated, _ = env.step(space.to_box(proposed))
        outcome = base.outcome
        said = tuner.diagnostics()
        seen = tuple(float(x) for x in outcome.observation)
        record = WindowRecord(
            window=window,
            plan=Plan(window // 4, window % 4, outcome.trace, proposed, tuner.recommend()),
            served=outcome.served,
            score=outcome.score,
            metrics=outcome.metrics,
            reference=outcome.reference,
            traffic=outcome.traffic,
            guard=Guarded(env.report, before, env.state()),
            agent=Shown(
                before=(),
                context=(),
                observation_before=seen,
                observation=seen,
                void=False,
                shifted=False,
                ended=terminated or truncated,
                diagnostics=said,
            ),
        )
        tuner.observe(record.transition())
        found.append(record)
        if terminated or truncated:
            env.reset()
    env.close()
    return tuple(found)
