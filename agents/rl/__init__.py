"""Stable-Baselines3 agents, run window by window, and their actors as plain numpy."""
