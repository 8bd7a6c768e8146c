"""A server in operation: supervision of its tuner, soak, and what a tuner costs."""
