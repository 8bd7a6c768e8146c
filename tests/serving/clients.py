"""Clients of a server under test: open-loop load with the openai package."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import openai

from ewsjf_env.engine.stand_in.model_folder import words


@dataclass(frozen=True)
class Call:
    """One request: when it is sent, how long it is, and after how many tokens it is cut off."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    cut_after: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What came back: tokens, and how often an end was announced."""

    call: Call
    tokens: int
    ends: int


def mixed_calls(count: int, rate_per_s: float, *, cut_every: int = 0) -> list[Call]:
    """Short and long prompts in turn; every `cut_every`-th request is cut off by its client.

    Such a request asks for so much that it cannot have ended before its client leaves.
    """
    calls = []
    for index in range(count):
        cut = bool(cut_every) and index % cut_every == 0
        call = Call(
            at_s=index / rate_per_s,
            prompt_tokens=(37 * index) % 190 + 10 if index % 5 else 1500 + 13 * index % 900,
            output_tokens=10_000 if cut else 4 + index % 9,
            cut_after=index % 3 if cut else None,
        )
        calls.append(call)
    return calls


def send_all(
    url: str,
    model: str,
    calls: list[Call],
    meanwhile: Callable[[], Awaitable[None]] | None = None,
    api_key: str = "none",
) -> list[Outcome]:
    """Send all calls at their times, whatever has come back; and run `meanwhile` beside."""

    async def run() -> list[Outcome]:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=120.0
        ) as client:
            side = asyncio.create_task(meanwhile()) if meanwhile else None
            outcomes = await asyncio.gather(
                *(_send(client, model, number, call) for number, call in enumerate(calls))
            )
            if side is not None:
                side.cancel()
                await asyncio.gather(side, return_exceptions=True)
            return list(outcomes)

    return asyncio.run(run())


async def _send(client: openai.AsyncOpenAI, model: str, number: int, call: Call) -> Outcome:
    await asyncio.sleep(call.at_s)
    tokens = ends = 0
    stream = await client.completions.create(
        model=model,
        prompt=words(call.prompt_tokens, first=31 * number),
        max_tokens=call.output_tokens,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async with stream:
        async for chunk in stream:
            if call.cut_after is not None and tokens >= call.cut_after:
                break  # leaving the block closes the connection
            tokens += len(chunk.choices[0].text.split())  # one chunk may bring several
            ends += chunk.choices[0].finish_reason is not None
    return Outcome(call, tokens, ends)
