"""The service level of a request: how long its first token and each further one may take.

    TTFT <= a + m C(b)        TPOT <= T

a and T in seconds, m a factor on C(b), the seconds that a prompt of b tokens takes alone on the
machine: who sends a long prompt expects to wait for it.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from ewsjf_env.config import ConfigError, NotNegative, Positive, settings
from ewsjf_env.measure.requests import Requests

_NUMBER = r"(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)"
_TTFT = re.compile(rf"ttft={_NUMBER}(?:\+{_NUMBER}C)?")
_TPOT = re.compile(rf"tpot={_NUMBER}")


@settings
class ServiceLevel:
    """a, m and T of a service level."""

    ttft_s: Positive = 1.0
    """a, seconds to the first token of a prompt that costs nothing."""
    ttft_cost_factor: NotNegative = 5.0
    """m, seconds more for each second of the prompt's own prefill."""
    tpot_s: Positive = 0.2
    """T, mean seconds between two tokens after the first."""

    @classmethod
    def parse(cls, text: str, where: str = "service") -> ServiceLevel:
        """Read `ttft=1+5C,tpot=0.2`; a part that is missing has its default.

        Raises:
            ConfigError: anything else, beginning with `where`.
        """
        values: dict[str, float] = {}
        for part in text.replace(" ", "").split(","):
            ttft, tpot = _TTFT.fullmatch(part), _TPOT.fullmatch(part)
            if ttft is not None and "ttft_s" not in values:
                values["ttft_s"] = float(ttft[1])
                values["ttft_cost_factor"] = float(ttft[2] or 0.0)
            elif tpot is not None and "tpot_s" not in values:
                values["tpot_s"] = float(tpot[1])
            else:
                raise ConfigError(f"{where}: {part!r} in {text!r}; expected ttft=1+5C,tpot=0.2")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def __str__(self) -> str:
        return f"ttft={self.ttft_s:g}+{self.ttft_cost_factor:g}C,tpot={self.tpot_s:g}"

    def kept(self, requests: Requests, now_s: float) -> NDArray[np.bool_]:
        """Which requests keep the level, by what is known at `now_s`, shape (n,).

        One that has no first token yet has missed it.  One that still decodes is judged by its
        tokens so far.
        """
        ttft_s = requests.first_token_s - requests.arrival_s
        in_time = ttft_s <= self.ttft_s + self.ttft_cost_factor * requests.cost_s
        ends_s = np.where(np.isnan(requests.finish_s), now_s, requests.finish_s)
        further = np.maximum(1, requests.generated_tokens - 1)
        steady = (ends_s - requests.first_token_s) / further <= self.tpot_s
        return np.asarray(in_time & (steady | (requests.generated_tokens < 2)), np.bool_)
