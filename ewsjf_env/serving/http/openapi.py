"""The description of our routes in the server's OpenAPI document."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_POLICY = {
    "type": "object",
    "description": "A policy as in a policy file.",
    "required": ["order"],
    "properties": {
        "schema_version": {"const": 1},
        "kind": {"const": "static"},
        "name": _TEXT,
        "order": _TEXT,
        "parameter_space_hash": _TEXT,
        "parameters": {"type": "object"},
        "partition": {"type": "object"},
        "provenance": {"type": "object"},
    },
    "additionalProperties": False,
}
_CHANGE = {
    "type": "object",
    "description": "Values of some parameters of the policy in force.",
    "required": ["parameters"],
    "properties": {
        "parameters": {"type": "object", "minProperties": 1},
        "name": _TEXT,
        "lease_s": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "Back to what was last set without a lease, unless renewed in time.",
        },
    },
    "additionalProperties": False,
}
_IN_FORCE = {
    "rank": _COUNT,
    "instance": {**_TEXT, "description": "Changes when the engine core restarts."},
    "policy_version": {**_COUNT, "description": "Changes since the start."},
    "policy": _POLICY,
}
_POLICY_ANSWER = {
    "type": "object",
    "properties": {
        **_IN_FORCE,
        "agree": {"type": "boolean", "description": "All ranks serve the same values."},
        "patch": {"type": "boolean", "description": "PATCH is switched on."},
        "ranks": {"type": "array", "items": {"type": "object", "properties": _IN_FORCE}},
    },
}
_WINDOW_ANSWER = {
    "type": "object",
    "description": "Times are seconds on the clock of the rank's scheduler, as `now_s`.",
    "properties": {
        "next": {**_TEXT, "description": "Pass as `since` to go on from here."},
        "ranks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "rank": _COUNT,
                    "instance": _TEXT,
                    "policy_version": _COUNT,
                    "now_s": {"type": "number"},
                    "columns": {"type": "array", "items": _TEXT},
                    "finished": {"type": "array", "items": {"type": "array"}},
                    "open": {"type": "array", "items": {"type": "array"}},
                    "more": {"type": "boolean", "description": "Ask again: there are more."},
                    "lost": {**_COUNT, "description": "Records dropped before they were read."},
                    "counters": {"type": "object", "additionalProperties": {"type": "number"}},
                },
            },
        },
    },
}
_PARTITION_ANSWER = {
    "type": "object",
    "properties": {"ranks": {"type": "array", "items": {"type": "object"}}},
}
_ERROR = {"type": "object", "properties": {"error": _TEXT}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _route(summary: str, answer: dict[str, Any], errors: dict[int, str]) -> dict[str, Any]:
    refused = {
        401: "The server has an API key and the request has not.",
        404: "The server runs another scheduler.",
        503: "The engine does not answer.",
    }
    return {
        "summary": summary,
        "response_model": None,
        "responses": {
            200: {"description": "What is in force.", "content": _json(answer)},
            **{
                status: {"description": text, "content": _json(_ERROR)}
                for status, text in sorted({**refused, **errors}.items())
            },
        },
    }


GET_POLICY = _route("The policy in force", _POLICY_ANSWER, {})
PATCH_POLICY = {
    **_route(
        "Change the policy from the next step on",
        _POLICY_ANSWER,
        {
            400: "The body broke off.",
            403: "PATCH is off, or comes from a page of another site.",
            408: "The body did not arrive in time.",
            412: "If-Match names another version than the one in force.",
            413: "The body is too large.",
            422: "The change is not legal; nothing has changed.",
        },
    ),
    "openapi_extra": {
        "requestBody": {"required": True, "content": _json({"oneOf": [_CHANGE, _POLICY]})},
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": False,
                "schema": _TEXT,
                "description": text,
            }
            for name, text in (
                ("If-Match", "ETag of the policy that the change is meant for."),
                ("X-EWSJF-Author", "Who changes it, for the server's log."),
            )
        ],
    },
}
GET_WINDOW = _route(
    "Request records and counters", _WINDOW_ANSWER, {422: "`since` is no place in the record."}
)
GET_PARTITION = _route("Queues: limits, depths, waits, scores", _PARTITION_ANSWER, {})
