#!/usr/bin/env python3
"""Compare scheduling policies on the same traffic; see `evaluate.py --help`."""

from agents.start import start

if __name__ == "__main__":
    start("agents.evaluate_command")
