"""Synthetic workloads that can be named without a file.

The same definitions are in `configs/workloads/NAME.yaml`, with a comment on every line, to be
copied and changed; a test keeps the two equal.
"""

from __future__ import annotations

import dataclasses

from ewsjf_env.workload.arrivals import ArrivalLaw
from ewsjf_env.workload.lengths import LengthLaw
from ewsjf_env.workload.synthetic import Phase, RequestClass, SyntheticWorkload


def _uniform(low: int, high: int) -> LengthLaw:
    return LengthLaw("uniform", low_tokens=low, high_tokens=high)


def _lognormal(median: float, sigma: float, low: int, high: int) -> LengthLaw:
    return LengthLaw(
        "lognormal", median_tokens=median, sigma=sigma, low_tokens=low, high_tokens=high
    )


_CHAT = RequestClass("chat", 0.85, _lognormal(180, 1.0, 8, 2048), _lognormal(160, 0.8, 8, 1024))
_DOCUMENT = RequestClass(
    "document", 0.15, _lognormal(2600, 0.5, 1024, 8192), _lognormal(140, 0.6, 16, 768)
)

BUILTIN: dict[str, SyntheticWorkload] = {
    "paper_mix": SyntheticWorkload(
        name="paper_mix",
        description="The paper's mix: 80 % short and 20 % long prompts, Poisson arrivals.",
        rate_per_s=8.0,
        arrivals=ArrivalLaw("poisson"),
        classes=(
            RequestClass("short", 0.8, _uniform(32, 256), _uniform(64, 192)),
            RequestClass("long", 0.2, _uniform(1024, 4096), _uniform(64, 192)),
        ),
    ),
    "mixed": SyntheticWorkload(
        name="mixed",
        description="Everyday traffic: chat with some documents, Poisson arrivals.",
        rate_per_s=8.0,
        arrivals=ArrivalLaw("poisson"),
        classes=(_CHAT, _DOCUMENT),
    ),
    "shifting_mix": SyntheticWorkload(
        name="shifting_mix",
        description="Chat with few documents turns half-way into half documents, in bursts.",
        rate_per_s=6.0,
        arrivals=ArrivalLaw("gamma", cv=3.0),
        classes=(_CHAT, _DOCUMENT),
        phases=(
            Phase(start_fraction=0.0, shares={"chat": 0.95, "document": 0.05}),
            Phase(start_fraction=0.5, shares={"chat": 0.5, "document": 0.5}, rate_factor=0.38),
        ),
    ),
    "bursty": SyntheticWorkload(
        name="bursty",
        description="Everyday traffic in bursts: Gamma arrivals with CV 3.",
        rate_per_s=8.0,
        arrivals=ArrivalLaw("gamma", cv=3.0),
        classes=(_CHAT, _DOCUMENT),
    ),
    "documents": SyntheticWorkload(
        name="documents",
        description="Half chat, half documents, in bursts: the second half of shifting_mix.",
        rate_per_s=2.25,
        arrivals=ArrivalLaw("gamma", cv=3.0),
        classes=(
            dataclasses.replace(_CHAT, share=0.5),
            dataclasses.replace(_DOCUMENT, share=0.5),
        ),
    ),
    "training_mix": SyntheticWorkload(
        name="training_mix",
        description="Broad traffic a default policy is learnt from; unlike every judged one.",
        rate_per_s=5.0,
        arrivals=ArrivalLaw("gamma", cv=1.5),
        classes=(
            RequestClass(
                "question", 0.45, _lognormal(120, 1.1, 4, 1500), _lognormal(220, 0.9, 4, 1500)
            ),
            RequestClass(
                "conversation", 0.25, _lognormal(700, 0.9, 32, 6000), _lognormal(180, 0.8, 4, 1500)
            ),
            RequestClass("completion", 0.18, _uniform(300, 3500), _uniform(4, 64)),
            RequestClass(
                "document", 0.12, _lognormal(5000, 0.7, 800, 16000), _lognormal(250, 0.6, 16, 1200)
            ),
        ),
    ),
}
