"""Hints of a caller about a request, in `extra_args`: expected output and tenant.

    SamplingParams(extra_args={"ewsjf": {"output_tokens": 120, "tenant": "batch"}})

Over HTTP vLLM passes flat values only:

    {"vllm_xargs": {"ewsjf_output_tokens": 120, "ewsjf_tenant": "batch"}, ...}

Whatever comes from a caller is data: a value of the wrong kind or size and a key that is not
known are ignored and counted, and never an error in the engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ewsjf_env.scheduling.tenants import is_name

KEY = "ewsjf"
FLAT = {"ewsjf_output_tokens": "output_tokens", "ewsjf_tenant": "tenant"}
MOST_OUTPUT_TOKENS = 10_000_000


@dataclass(frozen=True)
class Hints:
    """What was said; `ignored` counts what could not be used.

    Attributes:
        output_tokens: expected number of generated tokens, >= 1; None: nothing said.
        tenant: "": nothing said.
    """

    output_tokens: int | None = None
    tenant: str = ""
    ignored: int = 0


NOTHING = Hints()


def read_hints(request: Any) -> Hints:
    """The hints of a vLLM `Request`; never raises."""
    extra = getattr(request.sampling_params, "extra_args", None)
    if not extra or not isinstance(extra, Mapping):
        return NOTHING
    said = {name: extra[flat] for flat, name in FLAT.items() if flat in extra}
    nested = extra.get(KEY)
    ignored = 0
    if isinstance(nested, Mapping):
        said.update(nested)
    elif nested is not None:
        ignored += 1
    if not said:
        return Hints(ignored=ignored) if ignored else NOTHING
    ignored += sum(name not in ("output_tokens", "tenant") for name in said)
    output_tokens, tenant = _tokens(said.get("output_tokens")), _name(said.get("tenant"))
    ignored += output_tokens is None and said.get("output_tokens") is not None
    ignored += tenant is None and said.get("tenant") is not None
    return Hints(output_tokens, tenant or "", ignored)


def _tokens(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return round(value) if 1 <= value <= MOST_OUTPUT_TOKENS else None


def _name(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 1 << 63 else None
    return str(value) if is_name(value) else None
