"""The command `ewsjf` as `python -m agents.cli`, where no console script is at hand."""

import sys

from agents.cli.main import main

sys.exit(main())
