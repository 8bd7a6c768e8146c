"""The way into the engine process: utilities of vLLM's EngineCore that reach our scheduler.

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
    ewsjf = _extension(self)
    current = ewsjf.queue.policy_version
    error, conflict = "", True
    if if_version is not None and if_version != current:
        error = f"version: {if_version} is not the one in force, {current}"
    elif version is not None and version <= current and not _renews(change, version, current):
        error = f"version: {version} has been overtaken by {current}"
    else:
        conflict = False
        try:
            asked = PolicyChange.from_dict(change)
            policy = asked.applied_to(ewsjf.queue.policy)
        except ConfigError as reason:
            error = str(reason)
        else:
            if asked.lease_s is not None and policy == ewsjf.queue.policy:
                # Installing would order all waiting requests anew, for nothing.
                ewsjf.lease.grant(policy, ewsjf.now() + asked.lease_s)
            else:
                ewsjf.install(policy, version, asked.lease_s)
    answer = _in_force(self)
    if error:
        return {**answer, "applied": False, "error": error, "conflict": conflict}
    return {**answer, "applied": True}


def ewsjf_state(self: Any, with_policy: bool = True) -> dict[str, Any]:
    """What is in force, how deep the queues are, and what the scheduler has counted.

    Args:
        self: the engine core.
        with_policy: include the policy itself.

    Returns:
        `SchedulerExtension.state` with the keys of `ewsjf_configure`'s answer, `now_s` (the
        scheduler's clock), `running`, `kv_usage` in [0, 1] and `counters`.
    """
    ewsjf, scheduler = _extension(self), self.scheduler
    state = {**ewsjf.state(), **_in_force(self)}
    if not with_policy:
        del state["policy"]
    return {
        **state,
        "now_s": ewsjf.now(),
        "running": len(scheduler.running),
        "kv_usage": float(scheduler.kv_cache_manager.usage),
        "counters": dict(ewsjf.history.counts),
    }


def ewsjf_window(self: Any, since: int = 0, open_requests: bool = True) -> dict[str, Any]:
    """Request records and counters, and by which policy the requests were served.

    See `RequestHistory.window`.

    Args:
        self: the engine core.
        since: `next` of the answer before, of the same `instance`; 0 for all that is kept.
        open_requests: also list requests that have not ended.
    """
    ewsjf = _extension(self)
    return {
        "instance": ewsjf.instance,
        "rank": _rank(self),
        "policy_version": ewsjf.queue.policy_version,
        "cuts": list(ewsjf.queue.policy.partition.cuts),
        **ewsjf.window(since, open_requests),
    }


def _renews(change: Any, version: int, current: int) -> bool:
    """A renewed lease keeps the policy's number, on the ranks that follow, too."""
    return version == current and isinstance(change, dict) and "lease_s" in change


def _in_force(core: Any) -> dict[str, Any]:
    ewsjf = core.scheduler.ewsjf
    return {
        "instance": ewsjf.instance,
        "rank": _rank(core),
        "policy_version": ewsjf.queue.policy_version,
        "policy": ewsjf.queue.policy.to_dict(),
    }


def _rank(core: Any) -> int:
    parallel = core.scheduler.vllm_config.parallel_config
    return int(getattr(parallel, "data_parallel_index", 0) or 0)


def _extension(core: Any) -> Any:
    """Ours of a core's scheduler; a lease that has ended meanwhile is over."""
    ewsjf = getattr(core.scheduler, "ewsjf", None)
    if ewsjf is None:
        raise ConfigError(
            f"scheduler: {type(core.scheduler).__name__} serves no policy of ours; start with "
            "--scheduler-cls ewsjf_env.serving.scheduler.EWSJFScheduler"
        )
    ewsjf.end_lease(ewsjf.now())
    return ewsjf
