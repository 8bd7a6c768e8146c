#!/usr/bin/env python3
"""Fit a latency model to measured steps; see --help."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.fit_latency")
