#!/usr/bin/env python3
"""Make the default policy again from its training traffic; see `--help`."""

import sys

from agents.default_policy import main

if __name__ == "__main__":
    sys.exit(main())
