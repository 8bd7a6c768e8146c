#!/usr/bin/env python3
"""Tune the scheduler with an agent; see --help."""

import sys

from agents.train_command import main

if __name__ == "__main__":
    sys.exit(main())
