#!/usr/bin/env python3
"""Compare the compiled engine with vLLM's own scheduler; see `check_fidelity.py --help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.check_fidelity")
