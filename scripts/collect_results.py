#!/usr/bin/env python3
"""Copy a study's reports, pictures and summaries to the folder that the README shows."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.project.collect_results")
