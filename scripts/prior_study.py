#!/usr/bin/env python3
"""Compare theory's ranking of a score's weights with the simulated engine's."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.prior_study")
