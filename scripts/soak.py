#!/usr/bin/env python3
"""Load a server for a while with policy changes and clients that leave; see `soak.py --help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.soak")
