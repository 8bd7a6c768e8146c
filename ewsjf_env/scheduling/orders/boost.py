"""The boost order: arrival time minus a bonus that is larger for less work.

Source: UniBoost (arXiv 2606.18431) after gamma-Boost (Yu and Scully 2024): key
a - (1/gamma) ln(1/(1 - exp(-gamma w))), smallest first, w the work in seconds.  gamma -> 0 is
SJF, gamma -> inf FCFS.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from ewsjf_env.scheduling.entry import Entry
from ewsjf_env.scheduling.orders.keyed import Key, KeyedOrder
from ewsjf_env.scheduling.orders.order import CostFunction

TAIL_RATIO = math.log(5.0)  # ln((1 - 0.95)/(1 - 0.99))
REFIT_EVERY = 128  # requests served
REMEMBERED = 1024
GAMMA_RANGE = (1e-4, 10.0)


def boosted_arrival_s(arrival_s: float, work_s: float, gamma: float) -> float:
    """The key; `work_s` > 0 and `gamma` > 0 per second."""
    return arrival_s + math.log(-math.expm1(-gamma * work_s)) / gamma


class AdaptiveBoostOrder(KeyedOrder):
    """Boost whose gamma follows the tail of the waits of served requests.

    An exponential tail exp(-gamma t) has t99 - t95 = ln(5)/gamma; every `REFIT_EVERY` picks
    gamma is set from the last `REMEMBERED` waits and the waiting requests are keyed anew.
    """

    def __init__(self, cost_s: CostFunction, gamma: float) -> None:
        super().__init__(self._boosted)
        self.gamma = gamma
        self._cost_s = cost_s
        self._now_s = 0.0
        self._waits_s: deque[float] = deque(maxlen=REMEMBERED)
        self._served = 0

    def begin_step(self, now_s: float) -> None:
        """Refit when due."""
        super().begin_step(now_s)
        self._now_s = now_s
        if self._served >= REFIT_EVERY:
            self._served = 0
            self._refit()

    def remove(self, entry: Entry, picked: bool) -> None:
        """Remember the wait of a picked entry."""
        super().remove(entry, picked)
        if picked:
            self._waits_s.append(self._now_s - entry.arrived_s + self._cost_s(entry.prompt_tokens))
            self._served += 1

    def _refit(self) -> None:
        t95_s, t99_s = np.percentile(np.array(self._waits_s), (95, 99))
        if t99_s > t95_s:
            low, high = GAMMA_RANGE
            self.gamma = min(high, max(low, TAIL_RATIO / float(t99_s - t95_s)))
            self.rekey()

    def _boosted(self, entry: Entry) -> Key:
        return (boosted_arrival_s(entry.arrived_s, self._cost_s(entry.prompt_tokens), self.gamma),)
