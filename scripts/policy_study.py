#!/usr/bin/env python3
"""Compare all policies, at their defaults and tuned, on unseen traffic; see `--help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.policy_study")
