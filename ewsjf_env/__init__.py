"""EWSJF tuning for vLLM: the scheduling algorithm, its vLLM binding, engines and environment.

Importing it registers the Gymnasium ids of `registration.py` where Gymnasium is installed.
"""

from ewsjf_env.env.registration import register_environments

__version__ = "0.1.0"

register_environments()
