"""What gpu_run.py measures of a machine, and of a server on it."""
