#!/usr/bin/env python3
"""Export what a tuning run has learnt as a policy file; see `export_policy.py --help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.export")
