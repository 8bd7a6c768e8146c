#!/usr/bin/env python3
"""Fit a latency model to measured steps; see --help."""

from agents.start import start

if __name__ == "__main__":
    start("agents.fit_latency_command")
