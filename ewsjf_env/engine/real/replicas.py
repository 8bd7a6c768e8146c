"""Several servers of one model as one link, for the engine that tunes them.

One link over a link to each.  Changes of policy go to all of them or to none; records and counters
of all ranks of all replicas are read as those of the ranks of one server; requests that we send
go to the replica with the fewest under way, in turn among equals.

The clocks of all replicas are set by the way of the slowest answer: replicas that are far apart
date each other's records less exactly, by half that time at most.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.real.link import Link, Told
from ewsjf_env.policy.policy import Policy

T = TypeVar("T")
QUESTIONS = 4  # one after the other, of a change that is taken back: see, change, put back twice


class Replica(Link, Protocol):
    """One of the servers.

    Attributes:
        url: of the server.
        model: as it is served; known once the link is open.
    """

    url: str
    model: str


class ReplicaLink:
    """A `Link` to all replicas; see the module."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        """Nothing is contacted; `replicas` are at least one, in the order of their ranks."""
        self._replicas = tuple(replicas)
        self._sent = [0] * len(replicas)  # and not answered yet
        self._turn = 0
        self._lease_s: float | None = None  # of the last change; None: it was no trial
        self._replaced: dict[str, Mapping[str, Any]] = {}  # by that trial: instance -> policy

    async def open(self) -> int:
        """See `Link.open`; the shortest of the models' lengths."""
        lengths = await _all(replica.open() for replica in self._replicas)
        first = self._replicas[0]
        for other in self._replicas[1:]:
            if other.model != first.model:
                raise ConfigError(
                    f"model: {first.url} serves {first.model!r} and {other.url} {other.model!r}; "
                    "replicas serve one model under one name"
                )
        return min(lengths)

    async def policy(self) -> Mapping[str, Any]:
        """See `Link.policy`: the first replica's, and every rank's."""
        answers = await _all(replica.policy() for replica in self._replicas)
        known: dict[str, str] = {}
        for replica, answer in zip(self._replicas, answers, strict=True):
            same = known.setdefault(answer["instance"], replica.url)
            if same != replica.url:
                raise ConfigError(f"urls: {same} and {replica.url} are the same server")
        return _as_one(answers)

    async def configure(self, change: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Link.configure`: all replicas, or none.

        Raises:
            EngineError: some replicas failed or refused; the others were put back, or the error
                names those that could not be.
        """
        before = await _all(replica.policy() for replica in self._replicas)
        found = await asyncio.gather(
            *(replica.configure(change) for replica in self._replicas), return_exceptions=True
        )
        errors = [one for one in found if isinstance(one, BaseException)]
        if not errors:
            if self._lease_s is None:
                self._replaced = {answer["instance"]: answer["policy"] for answer in before}
            self._lease_s = change.get("lease_s")
            return _as_one(found)  # type: ignore[arg-type]
        if all(isinstance(one, ConfigError) for one in found):
            raise errors[0]
        lost = await self._put_back(change, before, found)
        others = f"could not be put back: {', '.join(lost)}" if lost else "the others were put back"
        raise EngineError(f"{errors[0]}; {others}") from errors[0]

    async def leave(self, change: Mapping[str, Any]) -> None:
        """See `Link.leave`: whoever can be reached."""
        found = await asyncio.gather(
            *(replica.leave(change) for replica in self._replicas), return_exceptions=True
        )
        _raise_first(found)

    async def window(self, since: str, open_requests: bool) -> Mapping[str, Any]:
        """See `Link.window`; ranks are counted through."""
        places = since.split(",") if since != "0" else ["0"] * len(self._replicas)
        answers = await _all(
            replica.window(place, open_requests)
            for replica, place in zip(self._replicas, places, strict=True)
        )
        ranks = [rank for answer in answers for rank in answer["ranks"]]
        return {
            "next": ",".join(answer["next"] for answer in answers),
            "ranks": [{**rank, "rank": number} for number, rank in enumerate(ranks)],
        }

    async def generate(self, name: str, token_ids: list[int], max_tokens: int, told: Told) -> None:
        """See `Link.generate`."""
        count = len(self._replicas)
        chosen = min(range(count), key=lambda i: (self._sent[i], (i - self._turn) % count))
        self._turn = chosen + 1
        self._sent[chosen] += 1
        try:
            await self._replicas[chosen].generate(name, token_ids, max_tokens, told)
        finally:
            self._sent[chosen] -= 1

    async def close(self) -> None:
        """See `Link.close`."""
        await _all(replica.close() for replica in self._replicas)

    async def _put_back(
        self,
        change: Mapping[str, Any],
        before: Sequence[Mapping[str, Any]],
        found: Sequence[Any],
    ) -> list[str]:
        """Undo a change; the replicas that took it and could not be put back.

        A replica that did not answer may have taken it, too, so it is told as well.
        """
        told = [i for i, one in enumerate(found) if not isinstance(one, ConfigError)]
        done = await asyncio.gather(
            *(self._undo(self._replicas[i], change, before[i]) for i in told),
            return_exceptions=True,
        )
        return [
            self._replicas[i].url
            for i, outcome in zip(told, done, strict=True)
            if isinstance(outcome, BaseException) and not isinstance(found[i], BaseException)
        ]

    async def _undo(
        self, replica: Replica, change: Mapping[str, Any], before: Mapping[str, Any]
    ) -> None:
        """What was on trial before goes on trial again, over what it had replaced."""
        replaced = self._replaced.get(before["instance"]) if self._lease_s is not None else None
        if replaced is None or "lease_s" not in change:
            kept = Policy.from_dict(replaced or before["policy"], replica.url)
            if "order" in change:
                await replica.configure(dataclasses.replace(kept, provenance={}).to_dict())
            else:
                await replica.configure(_values(kept))
        if replaced is not None:
            trial = _values(Policy.from_dict(before["policy"], replica.url))
            await replica.configure({**trial, "lease_s": self._lease_s})


def _values(policy: Policy) -> dict[str, Any]:
    """The change that brings all values of a policy, also those that its file leaves out."""
    return {"parameters": dict(policy.parameters), "name": policy.name}


async def _all(questions: Iterable[Awaitable[T]]) -> list[T]:
    """Ask all at once and wait for all; then the first error, if there is one, is raised."""
    found = await asyncio.gather(*questions, return_exceptions=True)
    _raise_first(found)
    return found  # type: ignore[return-value]


def _raise_first(found: Sequence[Any]) -> None:
    """What waiting does not mend comes first."""
    errors = [one for one in found if isinstance(one, BaseException)]
    for error in sorted(errors, key=lambda error: not isinstance(error, ConfigError)):
        raise error


def _as_one(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is in force on all replicas, as one server says it."""
    return {
        **answers[0],
        "instance": ",".join(answer["instance"] for answer in answers),
        "ranks": [rank for answer in answers for rank in answer["ranks"]],
    }
