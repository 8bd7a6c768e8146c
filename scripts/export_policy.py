#!/usr/bin/env python3
"""Export what a tuning run has learnt as a policy file; see `export_policy.py --help`."""

import sys

from agents.export_command import main

if __name__ == "__main__":
    sys.exit(main())
