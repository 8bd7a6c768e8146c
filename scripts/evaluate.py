#!/usr/bin/env python3
"""Compare scheduling policies on the same traffic; see `evaluate.py --help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.evaluate")
