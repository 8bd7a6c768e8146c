#!/usr/bin/env python3
"""Start `vllm serve` under a scheduling policy; see `serve.py --help`."""

import sys

from agents.serve_command import main

if __name__ == "__main__":
    sys.exit(main())
