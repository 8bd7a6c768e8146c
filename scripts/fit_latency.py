#!/usr/bin/env python3
"""Fit a latency model to measured steps; see --help."""

import sys

from agents.fit_latency_command import main

if __name__ == "__main__":
    sys.exit(main())
