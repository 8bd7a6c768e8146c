"""Measurement of a window: records of requests, metrics, features, objective, constraints."""
