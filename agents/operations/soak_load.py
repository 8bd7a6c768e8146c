"""The load of a soak, and the tally of what came back: every request once.

Clients send text completions at random times, whatever has come back (open loop), and read the
stream.  Some hang up: within a second, token or not, or after a few tokens; half of those connect
again and ask once more, to the end.  Beside them one client changes the policy every second, and
now and then sends a body that must be refused.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from ewsjf_env.engine.stand_in.model_folder import words
from ewsjf_env.policy.policy import parse_policy

POLICIES = (
    "ewsjf",
    "fcfs",
    "ewsjf(k=8)",
    "hrrn",
    "ewsjf(q_max=4)",
    "sjf",
    "ewsjf_normalised",
    "linear_aging",
    "ewsjf(overdue_share=0.3)",
    "ewsjf_paper",
    "ewsjf_authors",
    "boost",
)
BAD_BODIES = (b"", b"[" * 9999, b'{"parameters": {"k": NaN}}', b'{"order": "none"}', b"x" * 70_000)
BAD_EVERY = 10  # of the policy changes, one in so many is illegal
REQUEST_TIMEOUT_S = 600.0
REJECTED = 503  # by --max-num-queued-reqs or --max-num-queued-tokens: an outcome, no problem


@dataclass(frozen=True)
class LoadSettings:
    """The traffic.

    Attributes:
        url: of the server.
        model: its served model name.
        rate_per_s: mean arrivals (Poisson), > 0.
        abort_share: of the requests whose client hangs up, [0, 1].
        swap_interval_s: seconds between two policy changes, > 0.
        api_key: sent as bearer; None for none.
        seed: of everything drawn.
    """

    url: str
    model: str
    rate_per_s: float = 8.0
    abort_share: float = 0.1
    swap_interval_s: float = 1.0
    api_key: str | None = None
    seed: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass
class Tally:
    """What has happened so far; `problems` says what must not have, the first hundred times."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        """Count a problem and keep its text."""
        self.counts["problems"] += 1
        if len(self.problems) < 100:
            self.problems.append(text)


class Load:
    """The clients of one soak; `run` sends until `stop` is set and waits for all answers."""

    def __init__(self, settings: LoadSettings, tally: Tally) -> None:
        self.settings = settings
        self.tally = tally
        self.stop = asyncio.Event()
        self._rng = random.Random(settings.seed)

    async def run(self) -> None:
        """Send requests and policy changes until `stop`, then wait for what is open."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._swap_policies())
            number = 0
            while not self.stop.is_set():
                group.create_task(self._client(number, random.Random(self._rng.random())))
                number += 1
                await self._pause(self._rng.expovariate(self.settings.rate_per_s))

    async def _client(self, number: int, rng: random.Random) -> None:
        prompt = rng.randint(1000, 3000) if rng.random() < 0.2 else rng.randint(20, 250)
        output = rng.randint(4, 32)
        cut = None
        if rng.random() < self.settings.abort_share:
            cut = rng.randrange(output // 2)
        body = {
            "model": self.settings.model,
            "prompt": words(prompt, first=rng.randrange(8000)),
            "max_tokens": output,
            "ignore_eos": True,
            "stream": True,
        }
        try:
            # A connection for each request: every one connects anew, as behind a balancer.
            timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                await self._stream(session, number, body, output, cut, rng.random())
            if cut is not None and rng.random() < 0.5:
                async with aiohttp.ClientSession(timeout=timeout) as session:
                    self.tally.counts["reconnected"] += 1
                    await self._stream(session, number, body, output, None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self.tally.problem(f"request {number}: {type(error).__name__}: {error}")

    async def _stream(
        self,
        session: aiohttp.ClientSession,
        number: int,
        body: Mapping[str, object],
        output: int,
        cut: int | None,
        patience_s: float = 0.0,
    ) -> None:
        counts = self.tally.counts
        counts["sent"] += 1
        url = f"{self.settings.url}/v1/completions"
        tokens = ends = 0
        async with session.post(url, json=body, headers=self.settings.headers) as answer:
            if answer.status == REJECTED:
                counts["rejected"] += 1
                return
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}: {(await answer.text())[:200]}")
            if cut == 0:  # perhaps still waiting when it leaves
                await asyncio.sleep(patience_s)
            while cut is None or tokens < cut:
                line = await answer.content.readline()
                if not line:
                    break
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                piece = json.loads(line[6:])
                if "error" in piece:
                    if piece["error"].get("code") != REJECTED:
                        raise ValueError(f"{piece['error']}"[:200])
                    counts["rejected"] += 1
                    return
                choice = piece["choices"][0]
                tokens += len(choice["text"].split())
                ends += choice["finish_reason"] is not None
        if cut is not None:  # leaving the block has closed the connection
            counts["hung_up"] += 1
        elif (tokens, ends) == (output, 1):
            counts["answered_once"] += 1
        else:
            self.tally.problem(f"request {number}: {tokens} of {output} tokens, {ends} ends")

    async def _swap_policies(self) -> None:
        counts = self.tally.counts
        timeout = aiohttp.ClientTimeout(total=60.0)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            number, due_s = 0, time.monotonic()
            while not self.stop.is_set():
                number += 1
                bad = number % BAD_EVERY == 0
                body = self._rng.choice(BAD_BODIES) if bad else _policy(number)
                try:
                    status = await self._patch(session, body)
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    self.tally.problem(f"policy change {number}: {type(error).__name__}: {error}")
                else:
                    counts["refused_changes" if bad else "policy_changes"] += 1
                    if not (400 <= status < 500 if bad else status == 200):
                        self.tally.problem(f"policy change {number}: HTTP {status}, bad: {bad}")
                due_s = max(due_s + self.settings.swap_interval_s, time.monotonic())
                await self._pause(due_s - time.monotonic())

    async def _patch(self, session: aiohttp.ClientSession, body: bytes) -> int:
        url, headers = f"{self.settings.url}/ewsjf/policy", self.settings.headers
        async with session.patch(url, data=body, headers=headers) as answer:
            await answer.read()
            return answer.status

    async def _pause(self, seconds: float) -> None:
        """Sleep, at most until `stop`."""
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
        except TimeoutError:
            return


def _policy(number: int) -> bytes:
    return json.dumps(parse_policy(POLICIES[number % len(POLICIES)]).to_dict()).encode()
