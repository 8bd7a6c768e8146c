"""Drawn traces: synthetic traffic and recorded ones, fixed before a run starts."""

from ewsjf_env.workload.spec import load_workload, trace_workload
from ewsjf_env.workload.trace import BLOCK_TOKENS, Trace, Workload

__all__ = ["BLOCK_TOKENS", "Trace", "Workload", "load_workload", "trace_workload"]
