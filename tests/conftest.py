"""Settings that must be in force before anything heavy is imported."""

import os

# Nothing that a test does may reach out of the machine or open a window.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
