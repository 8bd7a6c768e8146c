"""The open-loop client: a trace sent to a real engine, and what its clients saw.

Open loop: a request is sent when the trace says so, whatever has come back.  (A closed loop would
hide queueing, the very effect that is tuned.)  A request counts from the moment it was due, so a
sender that is late adds to the latency instead of hiding it; how late is kept, too.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.real.link import Link, Rejected
from ewsjf_env.engine.simulated.trace_requests import TraceRequests
from ewsjf_env.measure.records import RequestRecord
from ewsjf_env.workload.trace import BLOCK_TOKENS, BlockIds

FIRST_TOKEN = 1000  # above special tokens and bytes of usual vocabularies ...
TOKENS = 20_000  # ... and below their end


class OpenLoop:
    """The clients of one trace.

    `run` and `stop` belong to the engine's loop; what is read may be read from any thread, at
    moments that are safely past.
    """

    def __init__(
        self,
        requests: TraceRequests,
        block_ids: BlockIds | None,
        link: Link,
        now_s: Callable[[], float],
        salt: int,
    ) -> None:
        """Nothing is sent yet.

        Args:
            requests: of the trace, capped to what the model takes.
            block_ids: of the trace: which prompts share a prefix.
            link: where to send.
            now_s: seconds since the trace began.
            salt: chooses the tokens, so that no prompt of another trace is met again.
        """
        count = len(requests)
        self._requests = requests
        self._block_ids = block_ids
        self._link = link
        self._now_s = now_s
        self._salt = salt
        self._sent_s: list[float | None] = [None] * count
        self._first_s: list[float | None] = [None] * count
        self._finish_s: list[float | None] = [None] * count
        self._tokens = [0] * count
        self._rejected = [False] * count
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None
        self.failure: str | None = None

    async def start(self) -> None:
        """Begin to send."""
        self._runner = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Send no more, and abort what is open."""
        tasks = [*self._tasks, *([self._runner] if self._runner is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._runner = None

    def records(self, until_s: float) -> list[RequestRecord]:
        """Requests that were due before `until_s`, as they stood then, in order of arrival."""
        requests = self._requests
        found: list[RequestRecord] = []
        for i in range(bisect_left(requests.arrival_s, until_s)):
            finish_s = known(self._finish_s[i], until_s)
            rejected = finish_s is not None and self._rejected[i]
            record = RequestRecord(
                request_id=f"{i:08d}",
                arrival_s=requests.arrival_s[i],
                prompt_tokens=requests.prompt_tokens[i],
                output_tokens=requests.output_tokens[i],
                generated_tokens=self._tokens[i],
                first_token_s=known(self._first_s[i], until_s),
                finish_s=finish_s,
                outcome="rejected" if rejected else "served",
            )
            found.append(record)
        return found

    def worst_lag_s(self, start_s: float, end_s: float) -> float:
        """How late the latest request was sent of those due in [start_s, end_s)."""
        due = self._requests.arrival_s
        places = range(bisect_left(due, start_s), bisect_left(due, end_s))
        sent = (self._sent_s[i] for i in places)
        lags = [(end_s if s is None else s) - due[i] for i, s in zip(places, sent, strict=True)]
        return max(lags, default=0.0)

    async def _run(self) -> None:
        for index, due_s in enumerate(self._requests.arrival_s):
            await asyncio.sleep(max(0.0, due_s - self._now_s()))
            task = asyncio.create_task(self._send(index))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, index: int) -> None:
        def told(tokens: int) -> None:
            if tokens > 0 and self._first_s[index] is None:
                self._first_s[index] = self._now_s()
            self._tokens[index] = tokens

        prompt = prompt_tokens(
            index, self._requests.prompt_tokens[index], self._block_ids, self._salt
        )
        self._sent_s[index] = self._now_s()
        wanted = self._requests.output_tokens[index]
        try:
            await self._link.generate(f"{self._salt:x}-{index}", prompt, wanted, told)
            if self._tokens[index] != wanted:
                raise EngineError(
                    f"{self._tokens[index]} tokens came back, {wanted} were asked for"
                )
        except Rejected:
            self._rejected[index] = True
        except EngineError as error:
            self.failure = self.failure or f"request {index}: {error}"
            return
        self._finish_s[index] = self._now_s()


def prompt_tokens(index: int, length: int, block_ids: BlockIds | None, salt: int = 0) -> list[int]:
    """Token ids of a prompt; two share a prefix as far as their leading block ids agree."""
    if block_ids is None:
        return _draw([salt, 0, index], length)
    tokens: list[int] = []
    for block_id in block_ids[index]:
        tokens += _draw([salt, 1, abs(block_id)], min(BLOCK_TOKENS, length - len(tokens)))
    return tokens


def known(moment_s: float | None, until_s: float) -> float | None:
    """An event, unless it lies in the future of `until_s`."""
    return moment_s if moment_s is not None and moment_s < until_s else None


def _draw(seed: list[int], count: int) -> list[int]:
    random = np.random.default_rng(seed)
    drawn: list[int] = random.integers(FIRST_TOKEN, FIRST_TOKEN + TOKENS, count).tolist()
    return drawn
