"""The commands: one module each, run as `ewsjf NAME` or `python -m agents.cli.NAME`."""
