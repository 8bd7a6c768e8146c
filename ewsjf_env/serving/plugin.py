"""How does anything outside of the engine process reach the scheduler?

The entry point `ewsjf` in `vllm.general_plugins`, which vLLM calls in each of its processes.  It
adds three utilities to vLLM's EngineCore.  vLLM calls a utility by its name in the engine's own
thread between two steps, so none needs a lock:

    answer = await async_llm.engine_core.call_utility_async("ewsjf_state")

Arguments and answers are plain values.  A change that is not legal is answered, not raised: to
vLLM a raising utility is a fault, which it logs with a traceback.  Without our scheduler class
nothing else of vLLM is touched.
"""

from __future__ import annotations

from typing import Any

from ewsjf_env.config import ConfigError
from ewsjf_env.serving.change import PolicyChange


def register() -> None:
    """Add the utilities; calling it again changes nothing."""
    from vllm.v1.engine.core import EngineCore

    for utility in (ewsjf_configure, ewsjf_state, ewsjf_window):
        setattr(EngineCore, utility.__name__, utility)


def ewsjf_configure(
    self: Any, change: Any, if_version: int | None = None, version: int | None = None
) -> dict[str, Any]:
    """Change the policy, atomically, from the next step on.

    Args:
        self: the engine core.
        change: see `change.py`.
        if_version: only if this is the version of the policy in force.
        version: number that the new policy gets, for ranks that follow another; a number that is
            not above the one in force marks a change that has been overtaken.  None counts on.

    Returns:
        What is in force afterwards: `policy` (as in a policy file), `policy_version`, `instance`,
        `rank`; `applied` tells whether the change was taken, and if not, `error` says why in one
        line, with `conflict` true where the version was the reason.
    """
    scheduler = _scheduler(self)
    scheduler.ewsjf_end_lease(scheduler.ewsjf_now())
    current = scheduler.waiting.policy_version
    error, conflict = "", True
    if if_version is not None and if_version != current:
        error = f"version: {if_version} is not the one in force, {current}"
    elif version is not None and version <= current and not _renews(change, version, current):
        error = f"version: {version} has been overtaken by {current}"
    else:
        conflict = False
        try:
            asked = PolicyChange.from_dict(change)
            policy = asked.applied_to(scheduler.waiting.policy)
        except ConfigError as reason:
            error = str(reason)
        else:
            if asked.lease_s is not None and policy == scheduler.waiting.policy:
                # Installing would order all waiting requests anew, for nothing.
                until_s = scheduler.ewsjf_now() + asked.lease_s
                scheduler.ewsjf_lease.grant(policy, until_s)
            else:
                scheduler.install_policy(policy, version, asked.lease_s)
    answer = _in_force(scheduler)
    if error:
        return {**answer, "applied": False, "error": error, "conflict": conflict}
    return {**answer, "applied": True}


def ewsjf_state(self: Any, with_policy: bool = True) -> dict[str, Any]:
    """What is in force, how deep the queues are, and what the scheduler has counted.

    Args:
        self: the engine core.
        with_policy: include the policy itself.

    Returns:
        `_EWSJFMixin.ewsjf_state` with the keys of `ewsjf_configure`'s answer, `now_s` (the
        scheduler's clock), `running`, `kv_usage` in [0, 1] and `counters`.
    """
    scheduler = _scheduler(self)
    scheduler.ewsjf_end_lease(scheduler.ewsjf_now())
    state = scheduler.ewsjf_state()
    state.update(_in_force(scheduler))
    if not with_policy:
        del state["policy"]
    recorder = scheduler.ewsjf_recorder
    return {
        **state,
        "now_s": scheduler.ewsjf_now(),
        "running": len(scheduler.running),
        "kv_usage": float(scheduler.kv_cache_manager.usage),
        "counters": recorder.counters(),
    }


def ewsjf_window(self: Any, since: int = 0, open_requests: bool = True) -> dict[str, Any]:
    """Request records and counters, see `Recorder.window`, and by which policy they were served.

    Args:
        self: the engine core.
        since: `next` of the answer before, of the same `instance`; 0 for all that is kept.
        open_requests: also list requests that have not ended.
    """
    scheduler = _scheduler(self)
    scheduler.ewsjf_end_lease(scheduler.ewsjf_now())
    return {
        "instance": scheduler.ewsjf_instance,
        "rank": _rank(scheduler),
        "policy_version": scheduler.waiting.policy_version,
        "cuts": list(scheduler.waiting.policy.partition.cuts),
        **scheduler.ewsjf_recorder.window(since, scheduler.ewsjf_now(), open_requests),
    }


def _renews(change: Any, version: int, current: int) -> bool:
    """A renewed lease keeps the policy's number, on the ranks that follow, too."""
    return version == current and isinstance(change, dict) and "lease_s" in change


def _in_force(scheduler: Any) -> dict[str, Any]:
    return {
        "instance": scheduler.ewsjf_instance,
        "rank": _rank(scheduler),
        "policy_version": scheduler.waiting.policy_version,
        "policy": scheduler.waiting.policy.to_dict(),
    }


def _rank(scheduler: Any) -> int:
    return int(getattr(scheduler.vllm_config.parallel_config, "data_parallel_index", 0) or 0)


def _scheduler(core: Any) -> Any:
    scheduler = core.scheduler
    if getattr(scheduler, "ewsjf_recorder", None) is None:
        raise ConfigError(
            f"scheduler: {type(scheduler).__name__} serves no policy of ours; start with "
            "--scheduler-cls ewsjf_env.serving.scheduler.EWSJFScheduler"
        )
    return scheduler
