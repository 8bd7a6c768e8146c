"""The key check of /ewsjf: vLLM's own covers its own routes only."""

from __future__ import annotations

import hashlib
import secrets
from argparse import Namespace
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request


def api_keys(args: Namespace, environment_key: str | None) -> list[str]:
    """The keys that vLLM serves with: `--api-key`, else VLLM_API_KEY; empty for none."""
    keys: Iterable[str | None] = getattr(args, "api_key", None) or [environment_key]
    return [key for key in keys if key]


class Gate:
    """Compares keys without telling by the time it takes how much of a key was right."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [_hash(key) for key in keys]

    @property
    def open(self) -> bool:
        """True when no key is needed."""
        return not self._hashes

    def admits(self, request: Request) -> bool:
        """Whether the request carries `Authorization: Bearer KEY` with one of the keys."""
        if self.open:
            return True
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = _hash(key)
        found = False
        for known in self._hashes:
            found |= secrets.compare_digest(given, known)
        return found and scheme.lower() == "bearer"


def is_cross_site(request: Request) -> bool:
    """Whether a browser sends this on behalf of a page of another host."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


def author(request: Request) -> str:
    """Who asks, for the log: address, and the name given in X-EWSJF-Author (not verified)."""
    address = f"{request.client.host}:{request.client.port}" if request.client else "unknown"
    name = request.headers.get("x-ewsjf-author", "")[:80]
    return f"{address} {name!r}" if name else address


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
