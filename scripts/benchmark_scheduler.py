#!/usr/bin/env python3
"""Compare the CPU time of our scheduler with vLLM's own; see `benchmark_scheduler.py --help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.project.benchmark")
