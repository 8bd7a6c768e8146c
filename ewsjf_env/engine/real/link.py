"""The link to a running vLLM: what an engine in real time needs of it.

`remote_client.HttpLink` is one over HTTP, `live.InProcessLink` one in this process, and
`replicas.ReplicaLink` is one over several.  All methods are coroutines on the engine's own loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ewsjf_env.engine.base import EngineError

Told = Callable[[int], None]
"""Called with the number of tokens of a request so far, whenever there are more."""


class Unreachable(EngineError):
    """Nobody answers there now: the server is starting, restarting or gone."""


def places(since: str, ranks: int) -> str:
    """A cursor of other ranks for those that are here now: vLLM adds and removes the last ones."""
    return ".".join([*since.split("."), *["0"] * ranks][:ranks])


class Rejected(EngineError):
    """The server is well and does not take this request in: its queue is full, or it scales."""


class Link(Protocol):
    """A connection to vLLM with our plug-ins."""

    async def open(self) -> int:
        """Connect, or check that the connection still stands; the longest model length in tokens.

        Raises:
            Unreachable: nobody answers yet.
            ConfigError: it can never work, saying why.
        """
        ...

    async def policy(self) -> Mapping[str, Any]:
        """What is in force: `policy`, `instance`, and by `ranks` the same with `policy_version`."""
        ...

    async def configure(self, change: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change the policy (`serving/change.py`); what is in force afterwards, as `policy`.

        Raises:
            ConfigError: the change is not legal; nothing has changed.
        """
        ...

    async def leave(self, change: Mapping[str, Any]) -> None:
        """Change the policy for the last time, as `configure` does, where that can be done."""
        ...

    async def window(self, since: str, open_requests: bool) -> Mapping[str, Any]:
        """Records and counters: `next` and one answer of `ewsjf_window` for each of `ranks`.

        `since` is 0 or `next` of an answer before, also where ranks have come or gone since.
        """
        ...

    async def generate(self, name: str, token_ids: list[int], max_tokens: int, told: Told) -> None:
        """Serve one request to its end; cancelling aborts it.

        Raises:
            Rejected: it was not taken in.
            EngineError: it was not served.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; may be called more than once."""
        ...
