"""The measurement of a machine, and of a server on it."""
