"""Arms of the studies of hints and tenants: policies on engines that differ in their settings.

hints    output hints of rank correlation 0, 0.3, 0.6 and 1 with the truth, between an arm
         without information and an oracle
tenants  one tenant floods, a quiet one sends a little: with shares, without, and alone
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.scheduling.tenants import TenantSettings

HINTS = "ewsjf(w_output={weight:g})"


@dataclass(frozen=True)
class Arm:
    """A policy on an engine.

    Attributes:
        label: in tables.
        policy: as in `parse_policy`.
        engine: settings that differ from the study's.
        alone: only the quiet tenant's requests are sent.
    """

    label: str
    policy: str
    engine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True)
class Choice:
    """A rival with one parameter, whose value other traces of the same traffic choose.

    Attributes:
        policy: with `{:g}` where the value goes.
        values: of which the one of the least mean TTFT is taken.
    """

    policy: str
    values: tuple[float, ...]

    def arm(self, value: float) -> Arm:
        """With one of the values."""
        policy = self.policy.format(value)
        return Arm(f"{policy}, tuned", policy)


RIVALS = (
    Choice("hrrn(exponent={:g})", (0.5, 1, 1.5, 2, 3)),
    Choice("linear_aging(r={:g})", (5, 20, 50, 100, 300)),
)


@dataclass(frozen=True)
class ArmStudy:
    """Arms on one workload.

    Attributes:
        workload: file of the traffic.
        rate_per_s: its mean rate.
        arms: the first one is what the others are compared with.
        metrics: shown, by title.
        engine: of all arms, but for what an arm changes.
        choices: more arms, of which other traces choose the value.
    """

    workload: str
    rate_per_s: float
    arms: tuple[Arm, ...]
    metrics: Mapping[str, str]
    engine: SimulatedConfig = dataclasses.field(default_factory=SimulatedConfig)
    choices: tuple[Choice, ...] = RIVALS


def hint_study(rate_per_s: float = 1.7, weight: float = 1.0) -> ArmStudy:
    """Hints of several qualities; the oracle is a policy that reads the true output.

    At most 16 requests run: where a batch has room for all, no order matters.
    """
    weighed = HINTS.format(weight=weight)
    hinted = [
        Arm(f"hints, rank correlation {c:g}", weighed, {"hint_correlation": c})
        for c in (0.0, 0.3, 0.6, 1.0)
    ]
    return ArmStudy(
        "configs/workloads/long_outputs.yaml",
        rate_per_s,
        (
            Arm("ewsjf, by length", "ewsjf"),
            Arm("fcfs", "fcfs"),
            Arm("random", "random"),
            Arm("no hints, learned", weighed),
            *hinted,
            Arm("sjf_total (oracle)", f"sjf_total(beta={weight:g})"),
        ),
        {
            "TTFT mean s": "ttft_mean_s",
            "TTFT p95 s": "ttft_p95_s",
            "E2E mean s": "e2e_mean_s",
            "max wait s": "wait_max_s",
            "out tok/s": "output_tokens_per_s",
        },
        SimulatedConfig(max_num_seqs=16),
    )


def tenant_study(rate_per_s: float = 8.0) -> ArmStudy:
    """A flood beside a quiet tenant."""
    shares = {"tenants": TenantSettings(by="priority")}
    return ArmStudy(
        "configs/workloads/two_tenants.yaml",
        rate_per_s,
        (
            Arm("ewsjf, quiet tenant alone", "ewsjf", alone=True),
            Arm("fcfs", "fcfs"),
            Arm("random", "random"),
            Arm("ewsjf", "ewsjf"),
            Arm("fcfs, shares", "fcfs", shares),
            Arm("ewsjf, shares", "ewsjf", shares),
        ),
        {
            "quiet TTFT p50 s": "quiet_ttft_p50_s",
            "quiet TTFT p95 s": "quiet_ttft_p95_s",
            "flood TTFT p50 s": "flood_ttft_p50_s",
            "flood TTFT p95 s": "flood_ttft_p95_s",
            "quiet service, tokens/s": "quiet_service_per_s",
            "largest difference of service": "service_difference",
            "out tok/s": "output_tokens_per_s",
        },
    )


STUDIES = {"hints": hint_study, "tenants": tenant_study}
