"""An engine that is a running server: `vllm serve` with our plug-ins, perhaps with real users.

It may also be several replicas of one server, which get the same policy and share the traffic.

Two modes.  `driven`: we send a trace through the OpenAI API and measure at the client; what the
scheduler alone knows (counters, queues) comes from the server.  `shadow`: others send, and all
records come from `GET /ewsjf/window`; the trace of `reset` is ignored.  In `driven` mode traffic
of others makes a window's counters wrong, not its latencies.
"""

from __future__ import annotations

import os
from dataclasses import field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from ewsjf_env.config import ConfigError, Count, Range, check_range, settings
from ewsjf_env.engine.real.background import Background
from ewsjf_env.engine.real.link import Link
from ewsjf_env.engine.real.real_time import RealTimeEngine, RealTimeSettings
from ewsjf_env.engine.real.remote_client import HttpLink
from ewsjf_env.engine.real.replicas import QUESTIONS, ReplicaLink
from ewsjf_env.measure.records import MetricSettings

DEFAULT_URL = "http://127.0.0.1:8000"


@settings
class RemoteConfig:
    """Which server, and how it is measured."""

    url: str = DEFAULT_URL
    """Address of the server, without `/v1`."""
    urls: tuple[str, ...] = ()
    """Addresses of all replicas, instead of `url`; all with one API key."""
    ranks: int = 0
    """Data-parallel ranks of all servers together, that share the traffic; 0: one each."""
    mode: Literal["driven", "shadow"] = "driven"
    """`driven`: the traffic is sent by us; `shadow`: by others, and only read."""
    model: str = ""
    """Name of the model as it is served; empty: the first that the server names."""
    api_key_env: str = "VLLM_API_KEY"
    """Name of the environment variable that holds the server's API key; where that is not set,
    none is sent. The key itself is in no file.
    """
    timeout_s: Annotated[float, Range(0.0, 600.0, low_open=True)] = 30.0
    """Longest time of one question, seconds."""
    start_timeout_s: Annotated[float, Range(0.0, 3600.0)] = 120.0
    """How long to wait for a server that does not answer, for example while it
    restarts, seconds.
    """
    lease_s: float = 60.0
    """Values on trial end so long after the tuner's last sign of life, 0 or [5, 86400] seconds;
    0: they stay for good.
    """
    latency: str = "llama2-13b_a100-80g"
    """Preset name or path of a latency JSON file, best one fitted on that server: prefill costs,
    of which slowdowns and overdue limits are multiples, come from it.
    """
    max_num_batched_tokens: Count = 2048
    """Token budget of a step, as the server was started."""
    speed: Annotated[float, Range(0.0, 1000.0, low_open=True)] = 1.0
    """How many times as fast as that latency model the server is."""
    metrics: MetricSettings = field(default_factory=MetricSettings)
    """Class limits and service levels."""
    engine: Literal["remote"] = "remote"
    """What kind of engine these are the settings of."""

    def __post_init__(self) -> None:
        if self.urls and self.url != DEFAULT_URL:
            raise ConfigError(f"url, urls: both {self.url!r} and a list are given; give one")
        for url in self.servers:
            _check_url("urls" if self.urls else "url", url)
            if [other.rstrip("/") for other in self.servers].count(url.rstrip("/")) > 1:
                raise ConfigError(f"urls: {url!r} occurs twice")
        if self.ranks != 0:
            check_range("ranks", self.ranks, len(self.servers))
        if self.lease_s != 0.0:
            check_range("lease_s", self.lease_s, 5.0, 86_400.0)

    @property
    def servers(self) -> tuple[str, ...]:
        """URLs of all replicas; of the one server, where there is but one."""
        return self.urls or (self.url,)

    @property
    def shares(self) -> int:
        """Among how many schedulers the traffic is divided."""
        return self.ranks or len(self.servers)

    def link(self) -> Link:
        """A connection that has not been opened yet."""
        key = os.environ.get(self.api_key_env) if self.api_key_env else None
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ConfigError(
                f"api_key_env: the key in {self.api_key_env} has characters that no header may "
                "carry, perhaps a line end"
            )
        links = [HttpLink(url, key, self.timeout_s, self.model) for url in self.servers]
        return links[0] if len(links) == 1 else ReplicaLink(links)


class RemoteEngine(RealTimeEngine):
    """An `Engine` over a running server; see the module and `RealTimeEngine`."""

    def __init__(self, config: RemoteConfig | None = None) -> None:
        """Nothing is contacted yet."""
        self.config = config or RemoteConfig()
        settings = RealTimeSettings(
            load=self.config.mode == "driven",
            latency=self.config.latency,
            budget_tokens=self.config.max_num_batched_tokens,
            speed=self.config.speed,
            timeout_s=self.config.timeout_s * (QUESTIONS if len(self.config.servers) > 1 else 1),
            start_timeout_s=self.config.start_timeout_s,
            lease_s=self.config.lease_s,
            metrics=self.config.metrics,
        )
        super().__init__(self.config.link, settings)


def check_server(config: RemoteConfig) -> None:
    """Whether a server, or each of several replicas, can be tuned, before anything is built on it.

    Raises:
        ConfigError: it does not run our scheduler, wants a key, takes no PATCH, or has another
            number of ranks.
        EngineError: it does not answer.
    """
    background = Background("ewsjf-check")
    try:
        link = config.link()
        try:
            background.call(link.open())
            ranks = len(background.call(link.policy())["ranks"])
        finally:
            background.call(link.close())
    finally:
        background.close()
    if ranks != config.shares:
        raise ConfigError(
            f"remote: ranks: {config.shares} on {len(config.servers)} server(s), but {ranks} "
            "answer; set it: `ewsjf export` confirms on a twin of one, at its share of the load"
        )


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        legal = parts.scheme in ("http", "https") and bool(parts.hostname)
        legal = legal and parts.username is None and (parts.port or 1) > 0
    except ValueError:
        legal = False
    if not legal:
        raise ConfigError(f"{name}: {url!r} is not like {DEFAULT_URL}")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f"{name}: {url!r} has a path; give scheme, host and port only")
