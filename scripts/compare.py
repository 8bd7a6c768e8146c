#!/usr/bin/env python3
"""Compare tuners on the same tasks; see `compare.py --help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.compare")
