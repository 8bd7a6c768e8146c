#!/usr/bin/env python3
"""Compare scheduling policies on the same traffic; see `evaluate.py --help`."""

import sys

from agents.evaluate_command import main

if __name__ == "__main__":
    sys.exit(main())
