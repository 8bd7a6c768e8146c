"""Requests and vLLM's step outputs as far as a history reads them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ewsjf_env.scheduling.history import RequestHistory


class Request:
    """What a history reads of vLLM's `Request`."""

    def __init__(
        self, name: str, prompt: int = 7, output: int = 3, arrival_time: float = 100.0
    ) -> None:
        self.request_id = name
        self.arrival_time = arrival_time
        self.num_prompt_tokens = prompt
        self.max_tokens = output
        self.num_output_tokens = 0
        self.num_preemptions = 0
        self.reason: str | None = None

    def is_finished(self) -> bool:
        return self.reason is not None

    def get_finished_reason(self) -> str | None:
        return self.reason


def step(new: dict[str, int] | None = None, tokens: dict[str, int] | None = None) -> Any:
    """A `SchedulerOutput`: cached tokens of new requests, tokens scheduled of all."""
    tokens = tokens or {}
    return SimpleNamespace(
        preempted_req_ids=None,
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, num_computed_tokens=cached)
            for name, cached in (new or {}).items()
        ],
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
    )


def tokens_of(*counts: int) -> list[Any]:
    """vLLM's outputs to one front end: so many tokens of each request."""
    return [SimpleNamespace(outputs=[SimpleNamespace(new_token_ids=[1] * n) for n in counts])]


def end(
    history: RequestHistory, request: Request, now_s: float, reason: str = "length"
) -> list[Any]:
    """The request ends."""
    request.reason = reason
    return history.end([request.request_id], now_s)


def serve_one(history: RequestHistory, name: str, at_s: float) -> None:
    """A request from its arrival to its end, a second later."""
    request = Request(name)
    history.arrived(request, at_s)
    end(history, request, at_s + 1.0)
