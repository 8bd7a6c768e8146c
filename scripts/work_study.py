#!/usr/bin/env python3
"""Measure what output hints, or fair shares of tenants, are worth; see `work_study.py --help`."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.project.work_study")
