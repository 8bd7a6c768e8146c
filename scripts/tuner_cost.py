#!/usr/bin/env python3
"""Measure what a tuner takes of a server's engine core; see `tuner_cost.py --help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.tuner_cost")
