"""Policies: what is served, read from a file or a name, and how it drives the waiting queue."""

from ewsjf_env.policy.policy import Policy, default_policy, parse_policies, parse_policy

__all__ = ["Policy", "default_policy", "parse_policies", "parse_policy"]
