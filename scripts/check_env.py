#!/usr/bin/env python3
"""Check environments with Gymnasium's and Stable-Baselines3's checkers; print their spaces."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.check_env")
