#!/usr/bin/env python3
"""Compare tuners on the same tasks; see `compare.py --help`."""

from agents.start import start

if __name__ == "__main__":
    start("agents.comparison.command")
