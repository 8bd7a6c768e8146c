#!/usr/bin/env python3
"""Compare all policies, at their defaults and tuned, on unseen traffic; see `--help`."""

import sys

from agents.policy_study.command import main

if __name__ == "__main__":
    sys.exit(main())
