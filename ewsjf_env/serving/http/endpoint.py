"""HTTP routes for a tuner or an operator, on vLLM's own API server.

    GET   /ewsjf/policy      the policy in force
    PATCH /ewsjf/policy      change it; off unless `allow_patch` is set
    GET   /ewsjf/window      request records and counters since a place in the record
    GET   /ewsjf/partition   the queues: limits, depths, waits, scores

The entry point `ewsjf` in `vllm.endpoint_plugins`, which vLLM loads only if VLLM_PLUGINS names
it.  All routes need vLLM's API key where one is set.  Every answer comes from the engine cores
and tells what is in force there; a refused PATCH is a 4xx with one line of `error` and has
changed nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from argparse import Namespace
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from ewsjf_env.config import ConfigError
from ewsjf_env.serving.change import MAX_BODY_BYTES, PolicyChange
from ewsjf_env.serving.http import openapi
from ewsjf_env.serving.http.access import Gate, api_keys, author, is_cross_site
from ewsjf_env.serving.metrics import start_polling
from ewsjf_env.serving.ranks import EngineUnavailable, Ranks
from ewsjf_env.serving.settings import patch_is_allowed
from ewsjf_env.strict_json import read_json

BODY_TIMEOUT_S = 10.0
MAX_ERROR_CHARACTERS = 500  # an error quotes what was sent
logger = logging.getLogger("vllm.ewsjf")  # under vLLM's logger: its level, format and handlers


class _Refused(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error[:MAX_ERROR_CHARACTERS])
        self.status = status


class Control:
    """What the routes of one API server need.

    Args:
        ranks: the engine cores; None where the server runs another scheduler.
        gate: who is let in.
        allow_patch: whether the policy may be changed.
    """

    def __init__(self, ranks: Ranks | None, gate: Gate, allow_patch: bool) -> None:
        self._ranks = ranks
        self._gate = gate
        self._allow_patch = allow_patch
        self._writer = asyncio.Lock()  # the log tells changes in the order they happened

    async def policy(self, request: Request) -> JSONResponse:
        """GET /ewsjf/policy."""
        states = await self._admitted(request).call("ewsjf_state")
        return _policy_response(states, self._allow_patch)

    async def change_policy(self, request: Request) -> JSONResponse:
        """PATCH /ewsjf/policy."""
        ranks = self._admitted(request)
        if not self._allow_patch:
            raise _Refused(
                403, "PATCH is off; start the server with allow_patch: true to switch it on"
            )
        if self._gate.open and is_cross_site(request):
            raise _Refused(403, "a page of another site may not change the policy")
        who = author(request)
        try:
            change = read_json(await _body(request), "body", MAX_BODY_BYTES)
            PolicyChange.from_dict(change, "body")
            async with self._writer:
                before = (await ranks.call("ewsjf_state"))[0]
                if_version = _expected_version(request, before)
                answers = await ranks.configure(change, if_version)
            first = answers[0]
            if not first["applied"]:
                raise _Refused(412 if first["conflict"] else 422, first["error"])
        except ConfigError as error:
            refused = _Refused(422, str(error))
            logger.warning("policy change by %s refused: %s", who, refused)
            raise refused from None
        except _Refused as refused:
            logger.warning("policy change by %s refused: %s", who, refused)
            raise
        logger.info(
            "policy %d -> %d by %s: %s",
            before["policy_version"],
            first["policy_version"],
            who,
            json.dumps(change)[:2000],
        )
        return _policy_response(answers, self._allow_patch)

    async def window(self, request: Request, since: str, open_requests: bool) -> JSONResponse:
        """GET /ewsjf/window."""
        ranks = self._admitted(request)
        places = _places(since, len(ranks))
        answers = await ranks.call_each(
            "ewsjf_window", [(place, open_requests) for place in places]
        )
        following = ".".join(str(answer["next"]) for answer in answers)
        return JSONResponse(_finite({"next": following, "ranks": answers}))

    async def partition(self, request: Request) -> JSONResponse:
        """GET /ewsjf/partition."""
        states = await self._admitted(request).call("ewsjf_state")
        for state in states:
            policy = state.pop("policy")
            state["policy"], state["partition"] = policy["name"], policy["partition"]
        return JSONResponse(_finite({"ranks": states}))

    def _admitted(self, request: Request) -> Ranks:
        if not self._gate.admits(request):
            raise _Refused(401, "Authorization: Bearer with the server's API key is needed")
        if self._ranks is None:
            raise _Refused(404, "this server does not run EWSJFScheduler")
        return self._ranks


class EWSJFEndpoints:
    """vLLM's `EndpointPlugin`."""

    name = "ewsjf"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Register the routes."""
        router = APIRouter(prefix="/ewsjf", tags=["ewsjf"])

        @router.get("/policy", **openapi.GET_POLICY)
        async def get_policy(request: Request) -> JSONResponse:
            return await _answer(_control(request).policy(request))

        @router.patch("/policy", **openapi.PATCH_POLICY)
        async def patch_policy(request: Request) -> JSONResponse:
            return await _answer(_control(request).change_policy(request))

        @router.get("/window", **openapi.GET_WINDOW)
        async def get_window(request: Request, since: str = "0", open: bool = True) -> JSONResponse:
            return await _answer(_control(request).window(request, since, open))

        @router.get("/partition", **openapi.GET_PARTITION)
        async def get_partition(request: Request) -> JSONResponse:
            return await _answer(_control(request).partition(request))

        app.include_router(router)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Connect the routes with the engine, and the metrics."""
        import vllm.envs

        config = engine_client.vllm_config
        ranks = Ranks(engine_client) if _serves_ewsjf(config) else None
        gate = Gate(api_keys(args, vllm.envs.VLLM_API_KEY))
        allow_patch = patch_is_allowed(config.additional_config)
        if allow_patch and gate.open:
            logger.warning("PATCH /ewsjf/policy is on for all who reach this port: no API key")
        state.ewsjf = Control(ranks, gate, allow_patch)
        # Of several front ends, one counts: metrics of all are added up.
        if ranks is not None and getattr(engine_client.engine_core, "client_index", 0) == 0:
            state.ewsjf_polling = start_polling(ranks)


def _serves_ewsjf(vllm_config: Any) -> bool:
    from vllm.utils.import_utils import resolve_obj_by_qualname

    chosen = vllm_config.scheduler_config.scheduler_cls
    if isinstance(chosen, str):
        chosen = resolve_obj_by_qualname(chosen)
    return hasattr(chosen, "ewsjf")


def _control(request: Request) -> Control:
    control: Control = request.app.state.ewsjf
    return control


async def _answer(response: Any) -> JSONResponse:
    try:
        answer: JSONResponse = await response
        return answer
    except _Refused as refused:
        headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
        return JSONResponse({"error": str(refused)}, refused.status, headers)
    except EngineUnavailable as error:
        return JSONResponse({"error": str(error)}, 503)


async def _body(request: Request) -> bytes:
    """Read the body, at most `MAX_BODY_BYTES` within `BODY_TIMEOUT_S`."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise _Refused(413, f"body: larger than {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise _Refused(408, f"body: not complete within {BODY_TIMEOUT_S:g} s") from None
    except ClientDisconnect:
        raise _Refused(400, "body: not complete") from None
    return bytes(body)


def _expected_version(request: Request, state: dict[str, Any]) -> int | None:
    """The version that `If-Match` asks for; None for any."""
    wanted = request.headers.get("if-match")
    if wanted is None or wanted.strip() == "*":
        return None
    version = int(state["policy_version"])
    if wanted.strip() != _tag(state):
        raise _Refused(412, f"If-Match: {wanted[:80]!r} is not in force; {_tag(state)} is")
    return version


def _tag(state: dict[str, Any]) -> str:
    return f'"{state["instance"][:12]}-{state["policy_version"]}"'


def _policy_response(states: list[dict[str, Any]], allow_patch: bool) -> JSONResponse:
    first = states[0]
    keys = ("rank", "instance", "policy_version", "policy")
    ranks = [{key: state[key] for key in keys} for state in states]
    served = [(state["policy"]["order"], state["policy"]["parameters"]) for state in states]
    content = {
        "policy": first["policy"],
        "policy_version": first["policy_version"],
        "instance": first["instance"],
        "agree": all(one == served[0] for one in served),
        "patch": allow_patch,
        "ranks": ranks,
    }
    return JSONResponse(_finite(content), headers={"ETag": _tag(first)})


def _places(since: str, ranks: int) -> list[int]:
    """Read `next` of an earlier answer: a whole number per rank, joined by dots; 0 is all."""
    parts = since.split(".") if since != "0" else ["0"] * ranks
    if len(parts) != ranks or not all(p.isascii() and p.isdigit() and len(p) < 19 for p in parts):
        raise _Refused(
            422, f"since: {since[:80]!r} is neither 0 nor `next` of an answer of {ranks} rank(s)"
        )
    return [int(part) for part in parts]


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinities: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
