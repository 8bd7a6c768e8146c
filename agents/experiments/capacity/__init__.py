"""Capacities: what FCFS can drain, and the rate at which a policy keeps a service level."""
