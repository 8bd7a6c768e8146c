"""EWSJF tuning for vLLM: the scheduling algorithm, its vLLM binding, engines and environment.

    from ewsjf_env import make_env, Task, Policy, parse_policy, default_policy, load_workload

Importing registers the Gymnasium ids of `env/registration.py` where Gymnasium is installed; a name
is loaded when it is first asked for, and none of them loads vLLM or torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ewsjf_env.env.registration import register_environments

if TYPE_CHECKING:
    from ewsjf_env.env.guard import make_env as make_env
    from ewsjf_env.env.task import Task as Task
    from ewsjf_env.policy.policy import Policy as Policy
    from ewsjf_env.policy.policy import default_policy as default_policy
    from ewsjf_env.policy.policy import parse_policy as parse_policy
    from ewsjf_env.workload import load_workload as load_workload

__version__ = "0.1.0"
__all__ = ["Policy", "Task", "default_policy", "load_workload", "make_env", "parse_policy"]

_TARGETS = {
    "Policy": ("ewsjf_env.policy.policy", "Policy"),
    "Task": ("ewsjf_env.env.task", "Task"),
    "default_policy": ("ewsjf_env.policy.policy", "default_policy"),
    "load_workload": ("ewsjf_env.workload", "load_workload"),
    "make_env": ("ewsjf_env.env.guard", "make_env"),
    "parse_policy": ("ewsjf_env.policy.policy", "parse_policy"),
}


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first asked for (PEP 562)."""
    if name not in _TARGETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _TARGETS[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_environments()
