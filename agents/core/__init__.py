"""The vocabulary of tuning: agents, windows, requests, and files that survive a kill."""
