#!/usr/bin/env python3
"""Tune the scheduler with an agent; see --help."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.train")
