#!/usr/bin/env python3
"""Measure a machine; started by gpu_run.sh, see --help."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.gpu_run")
