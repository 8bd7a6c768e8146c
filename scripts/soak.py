#!/usr/bin/env python3
"""Load a server for a while with policy changes and clients that leave; see `soak.py --help`."""

import sys

from agents.soak import main

if __name__ == "__main__":
    sys.exit(main())
