"""EWSJF tuning for vLLM: the scheduling algorithm, its vLLM binding, engines and environment."""

__version__ = "0.1.0"
