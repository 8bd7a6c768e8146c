"""All data-parallel ranks as one: a utility is called on each, and each gets the same policy.

A front end (API server) talks to all engine cores that it manages; several front ends may do so
at once.  The first rank decides: it applies a change and numbers it.  The others are told the
resulting values together with that number and take them only if it is newer than theirs, so
however the messages of two writers interleave, every rank ends with what the first one serves.
Partitions that ranks have learnt from their own traffic stay their own.
"""

from __future__ import annotations

import asyncio
from typing import Any

ANSWER_TIMEOUT_S = 30.0  # a utility waits for the step under way; no step is that long


class EngineUnavailable(Exception):
    """An engine core is dead, or did not answer in time."""


class Ranks:
    """The engine cores behind an `EngineClient` (an `AsyncLLM`)."""

    def __init__(self, engine_client: Any) -> None:
        self._client = engine_client.engine_core

    def __len__(self) -> int:
        """Number of ranks."""
        return len(self._engines())

    async def call(self, utility: str, *arguments: Any) -> list[dict[str, Any]]:
        """Call a utility on every rank; answers in order of rank.

        Raises:
            EngineUnavailable: a rank does not answer.
        """
        return await self._gather([(engine, arguments) for engine in self._engines()], utility)

    async def call_each(self, utility: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        """As `call`, with arguments of its own for each rank."""
        return await self._gather(list(zip(self._engines(), arguments, strict=True)), utility)

    async def configure(
        self, change: dict[str, Any], if_version: int | None = None
    ) -> list[dict[str, Any]]:
        """Change the policy on every rank; see `plugin.ewsjf_configure`.

        Returns:
            The answer of each rank; only the first can say that the change was not applied.
        """
        lead, *others = self._engines()
        first = (await self._gather([(lead, (change, if_version))], "ewsjf_configure"))[0]
        if not first["applied"] or not others:
            return [first]
        policy, version = first["policy"], first["policy_version"]
        values = change if "order" in change else _values(policy, change)
        arguments = (values, None, version)
        answers = await self._gather([(other, arguments) for other in others], "ewsjf_configure")
        # Values that do not suit a rank's order: it missed a change that was overtaken.
        missed = [index for index, a in enumerate(answers) if a.get("error") and not a["conflict"]]
        whole = (policy, None, version)
        again = await self._gather([(others[i], whole) for i in missed], "ewsjf_configure")
        for index, answer in zip(missed, again, strict=True):
            answers[index] = answer
        return [first, *answers]

    def _engines(self) -> list[Any]:
        return list(self._client.core_engines)

    async def _gather(
        self, calls: list[tuple[Any, tuple[Any, ...]]], utility: str
    ) -> list[dict[str, Any]]:
        answers = asyncio.gather(
            *(
                self._client._call_utility_async(utility, *arguments, engine=engine)
                for engine, arguments in calls
            )
        )
        try:
            return list(await asyncio.wait_for(answers, ANSWER_TIMEOUT_S))
        except asyncio.CancelledError:
            raise
        except TimeoutError:
            raise EngineUnavailable(f"{utility}: no answer within {ANSWER_TIMEOUT_S:g} s") from None
        except Exception as error:
            raise EngineUnavailable(f"{utility}: {' '.join(str(error).split())}") from error


def _values(policy: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """All values of a policy as a change that leaves the partition alone, and its lease."""
    lease = {"lease_s": change["lease_s"]} if "lease_s" in change else {}
    return {"parameters": policy["parameters"], "name": policy["name"], **lease}
