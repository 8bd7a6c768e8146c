#!/usr/bin/env python3
"""Measure a machine; started by gpu_run.sh, see --help."""

from agents.start import start

if __name__ == "__main__":
    start("agents.gpu.command")
