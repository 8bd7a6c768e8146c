"""The ids under which Gymnasium knows the environments.

Gymnasium has no plug-in entry points: ids exist once this package is imported, for example by
`gymnasium.make("ewsjf_env:ewsjf/SchedulerTuning-v0")`, which also works in worker processes.
"""

from __future__ import annotations

import importlib.util

SIMULATED_ID = "ewsjf/SchedulerTuning-v0"
FAKE_ID = "ewsjf/SchedulerTuningFake-v0"
LIVE_ID = "ewsjf/SchedulerTuningLive-v0"
REMOTE_ID = "ewsjf/SchedulerTuningRemote-v0"
ENGINE_IDS = {
    "compiled": SIMULATED_ID,
    "simulated": SIMULATED_ID,
    "fake": FAKE_ID,
    "live": LIVE_ID,
    "remote": REMOTE_ID,
}
"""The id of each engine; of two engines with one id, the first is the default."""
REAL_TIME = ("live", "remote")
"""Engines where a second takes a second, nothing repeats, and nobody else serves the traffic."""
ENTRY_POINT = "ewsjf_env.env:SchedulerTuningEnv"
VECTOR_ENTRY_POINT = "ewsjf_env.env.vector:SchedulerTuningVectorEnv"
EPISODE_WINDOWS = 20


def register_environments() -> None:
    """Register all ids, once; does nothing where Gymnasium is not installed (serving)."""
    if importlib.util.find_spec("gymnasium") is None:
        return
    import gymnasium

    for engine, env_id in ENGINE_IDS.items():
        if env_id not in gymnasium.registry:  # the default of two engines comes first
            gymnasium.register(
                id=env_id,
                entry_point=ENTRY_POINT,
                vector_entry_point=VECTOR_ENTRY_POINT,
                kwargs={"engine": engine},
                nondeterministic=engine in REAL_TIME,
            )
