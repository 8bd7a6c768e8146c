"""The HTTP client of a vLLM server with our plug-ins.

Requests go through the OpenAI API as token ids, which are served at exactly their length; the
answer is streamed with the number of tokens so far in every piece.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.real.link import Rejected, Told, Unreachable, places

if TYPE_CHECKING:  # it costs a tenth of a second, which a task on another engine need not pay
    import aiohttp

AUTHOR = "ewsjf-tuner"
MAX_ERROR_CHARACTERS = 300
_DATA, _DONE = b"data: ", b"[DONE]"
_LINE_BYTES = 1 << 20
_REJECTED = 503  # of --max-num-queued-reqs, --max-num-queued-tokens, and while ranks are added


class HttpLink:
    """A `Link` to a server; see there.

    Attributes:
        url: of the server, without `/v1` and without a slash at the end.
        model: as it is served; "" until `open` has found the first that the server names.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float, model: str = "") -> None:
        """Nothing is contacted.

        Args:
            url: of the server, without `/v1`.
            api_key: what the server was started with, if with one.
            timeout_s: of one question; requests take as long as they take.
            model: as it is served; empty: the first that the server names.
        """
        self.url = url.rstrip("/")
        self._key = api_key
        self._timeout_s = timeout_s
        self.model = model
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> int:
        """See `Link.open`."""
        answer = await self._ask("GET", "/ewsjf/policy")
        if not answer.get("patch"):
            raise ConfigError(
                f"{self.url}: PATCH /ewsjf/policy is off; start the server with "
                "ewsjf serve --allow-patch"
            )
        models = (await self._ask("GET", "/v1/models"))["data"]
        names = [model["id"] for model in models]
        name = self.model or names[0]
        if name not in names:
            raise ConfigError(f"model: {name!r} is not served at {self.url}, but {names}")
        self.model = name
        return int(models[names.index(name)]["max_model_len"])

    async def policy(self) -> Mapping[str, Any]:
        """See `Link.policy`."""
        return await self._ask("GET", "/ewsjf/policy")

    async def configure(self, change: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Link.configure`."""
        return await self._ask("PATCH", "/ewsjf/policy", change)

    async def leave(self, change: Mapping[str, Any]) -> None:
        """See `Link.leave`."""
        await self.configure(change)

    async def window(self, since: str, open_requests: bool) -> Mapping[str, Any]:
        """See `Link.window`."""
        wanted = "true" if open_requests else "false"
        path = f"/ewsjf/window?open={wanted}&since="
        try:
            return await self._ask("GET", path + since)
        except ConfigError:
            ranks = len((await self.policy())["ranks"])
            if since == "0" or ranks == len(since.split(".")):
                raise  # it was something else
            return await self._ask("GET", path + places(since, ranks))

    async def generate(self, name: str, token_ids: list[int], max_tokens: int, told: Told) -> None:
        """See `Link.generate`."""
        body = {
            "model": self.model,
            "prompt": token_ids,
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        headers = {"X-Request-Id": name}
        import aiohttp

        whole = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s)
        async with self._answer("POST", "/v1/completions", body, headers, whole) as answer:
            if answer.status != 200:
                text = await answer.text(errors="replace")
                if answer.status == _REJECTED and _is_of_vllm(text):
                    raise Rejected(_error(text))
                raise EngineError(f"HTTP {answer.status}: {_error(text)}")
            async for line in answer.content:
                if not line.startswith(_DATA):
                    continue
                if line.startswith(_DONE, len(_DATA)):
                    return
                told(_tokens(line[len(_DATA) :]))
        raise EngineError("the answer broke off")

    async def close(self) -> None:
        """See `Link.close`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Ask for a JSON object.

        Raises:
            ConfigError: the question or the server is not as it must be.
            EngineError: the server fails.
            Unreachable: nobody answers.
        """
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        headers = {"X-EWSJF-Author": AUTHOR}
        async with self._answer(method, path, body, headers, timeout) as answer:
            text = await answer.text(errors="replace")
            if answer.status == 200:
                with contextlib.suppress(ValueError):
                    found = json.loads(text)
                    if isinstance(found, dict):
                        return found
                raise ConfigError(f"url: what answers at {self.url}{path} is no vLLM")
            raise self._refused(answer.status, path, _error(text))

    def _refused(self, status: int, path: str, error: str) -> Exception:
        where = f"{self.url}{path.partition('?')[0]}"
        if status == 401:
            key = "this one is another" if self._key else "none is set"
            return ConfigError(f"api_key_env: {self.url} wants its API key, {key}")
        if status == 404:
            return ConfigError(
                f"url: {where} does not exist; the server needs our scheduler and "
                f"VLLM_PLUGINS=ewsjf, as `ewsjf serve` starts it ({error})"
            )
        if status in (403, 405, 413, 422):
            return ConfigError(f"{where}: {error}")
        if status in (502, 503, 504):
            return Unreachable(f"{where}: HTTP {status}: {error}")
        return EngineError(f"{where}: HTTP {status}: {error}")

    @contextlib.asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp

        if self._session is None:
            keys = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._session = aiohttp.ClientSession(
                headers=keys,
                # Open loop: all at once.  A kept connection may be closed by the server just
                # when we write to it, and nobody could tell that from a server that fails.
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                read_bufsize=_LINE_BYTES,
            )
        try:
            async with self._session.request(
                method, f"{self.url}{path}", json=body, headers=headers, timeout=timeout
            ) as answer:
                yield answer
        except aiohttp.InvalidURL:
            raise ConfigError(f"url: {self.url!r} is no URL") from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Unreachable(f"{self.url}: does not answer: {reason}") from None


def _tokens(data: bytes) -> int:
    """How many tokens have been generated, as a piece of the answer says."""
    try:
        found = json.loads(data)
        if "error" in found:
            error, text = found["error"], _error(data.decode(errors="replace"))
            # vLLM finds out that its queue is full when the answer has begun.
            if isinstance(error, dict) and error.get("code") == _REJECTED:
                raise Rejected(text)
            raise EngineError(text)
        return int(found["usage"]["completion_tokens"])
    except (ValueError, KeyError, TypeError):
        raise EngineError(f"unexpected piece of an answer: {data[:100]!r}") from None


def _is_of_vllm(text: str) -> bool:
    """Whether an answer is vLLM's own; a proxy's, whose server is gone, is something else."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and "error" in found


def _error(text: str) -> str:
    """The one line of an error that a server gives, ours or vLLM's."""
    try:
        found = json.loads(text)["error"]
        text = found["message"] if isinstance(found, dict) else str(found)
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:MAX_ERROR_CHARACTERS]
