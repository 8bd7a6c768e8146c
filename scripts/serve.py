#!/usr/bin/env python3
"""Start `vllm serve` under a scheduling policy; see `serve.py --help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.serve")
