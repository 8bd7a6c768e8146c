#!/usr/bin/env python3
"""Make the default policy again from its training traffic; see `--help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.project.fit_default_policy")
