#!/usr/bin/env python3
"""Measure a machine; started by gpu_run.sh, see --help."""

import sys

from agents.gpu_command import main

if __name__ == "__main__":
    sys.exit(main())
