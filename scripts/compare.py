#!/usr/bin/env python3
"""Compare tuners on the same tasks; see `compare.py --help`."""

import sys

from agents.compare_command import main

if __name__ == "__main__":
    sys.exit(main())
