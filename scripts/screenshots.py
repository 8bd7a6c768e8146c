#!/usr/bin/env python3
"""Take docs/tensorboard.png and docs/optuna_dashboard.png of real runs, in headless Chromium."""

from agents.cli._start import start

if __name__ == "__main__":
    start("agents.cli.project.screenshots")
