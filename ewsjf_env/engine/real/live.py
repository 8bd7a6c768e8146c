"""An engine that is vLLM in this process: an `AsyncLLM`, and open-loop load of a trace.

With `simulate` its executor is the simulated one (`executor.py`), so that everything but the
device is real and runs anywhere.  That is decided when vLLM is imported: a process is either
simulated or not.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from ewsjf_env.config import ConfigError, Count, Range, nearest, settings, to_dict
from ewsjf_env.engine.base import EngineError
from ewsjf_env.engine.real.link import Rejected, Told, places
from ewsjf_env.engine.real.real_time import RealTimeEngine, RealTimeSettings
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.stand_in.model_folder import model_folder
from ewsjf_env.engine.stand_in.plugin import SWITCH
from ewsjf_env.engine.stand_in.server import EXECUTOR_CLASS
from ewsjf_env.engine.stand_in.settings import KEY, ExecutorSettings
from ewsjf_env.measure.records import MetricSettings
from ewsjf_env.scheduling.cost import CostPrior
from ewsjf_env.serving.launch import SCHEDULER_CLASS
from ewsjf_env.serving.ranks import EngineUnavailable, Ranks

_OURS = ("model", "scheduler_cls", "additional_config")


@settings
class LiveConfig:
    """Which vLLM, and how it is measured."""

    model: str = ""
    """Name or folder of the model; empty with `simulate`: a folder is made."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of vLLM's `AsyncEngineArgs`, by name."""
    simulate: ExecutorSettings | None = None
    """Run on the simulated executor with these settings; null: on the real device."""
    latency: str = "llama2-13b_a100-80g"
    """Preset name or path of a latency JSON file: prefill costs come from it."""
    max_num_batched_tokens: Count = 2048
    """Token budget of a step."""
    timeout_s: Annotated[float, Range(0.0, 600.0, low_open=True)] = 60.0
    """Longest time of one question, seconds."""
    metrics: MetricSettings = field(default_factory=MetricSettings)
    """Class limits and service levels."""
    engine: Literal["live"] = "live"
    """What kind of engine these are the settings of."""

    def __post_init__(self) -> None:
        for name in _OURS:
            if name in self.arguments:
                raise ConfigError(f"arguments: {name!r} is set by the engine")

    def engine_arguments(self) -> dict[str, Any]:
        """All arguments of `AsyncEngineArgs`; makes the model folder where one is needed.

        Raises:
            ConfigError: no model.
        """
        ours: dict[str, Any] = {
            "model": self.model,
            "scheduler_cls": SCHEDULER_CLASS,
            "max_num_batched_tokens": self.max_num_batched_tokens,
        }
        extra: dict[str, Any] = {}
        if self.simulate is not None:
            latency = self.simulate.latency
            prior = LatencyModel.load(latency).cost_prior(self.max_num_batched_tokens)
            scaled = [value / self.simulate.speed for value in dataclasses.astuple(prior)]
            extra = {
                KEY: to_dict(self.simulate),
                "ewsjf": {"cost_prior": to_dict(CostPrior(*scaled))},
            }
            ours |= {
                "model": self.model or str(model_folder(latency)),
                "load_format": "dummy",
                "max_model_len": 16384,
                "max_num_seqs": 256,
                "block_size": 16,
                "gpu_memory_utilization": 0.9,
                "enable_prefix_caching": False,
                "distributed_executor_backend": EXECUTOR_CLASS,
            }
        if not ours["model"]:
            raise ConfigError("live: model: is missing")
        return {**ours, **self.arguments, "additional_config": extra}


class LiveEngine(RealTimeEngine):
    """An `Engine` over vLLM in this process; see the module and `RealTimeEngine`.

    vLLM is started by the first `reset` or `apply` and stopped by `close`.
    """

    def __init__(self, config: LiveConfig | None = None) -> None:
        """Nothing is started yet."""
        self.config = config or LiveConfig()
        settings = RealTimeSettings(
            latency=self.config.latency,
            budget_tokens=self.config.max_num_batched_tokens,
            speed=1.0 if self.config.simulate is None else self.config.simulate.speed,
            timeout_s=self.config.timeout_s,
            start_timeout_s=0.0,
            metrics=self.config.metrics,
        )
        super().__init__(lambda: InProcessLink(self.config), settings)


class InProcessLink:
    """A `Link` to an `AsyncLLM` of this process; see there."""

    def __init__(self, config: LiveConfig) -> None:
        self._config = config
        self._llm: Any = None

    async def open(self) -> int:
        """See `Link.open`; starts vLLM."""
        if self._llm is None:
            self._llm = _start(self._config)
        return int(self._llm.model_config.max_model_len)

    async def policy(self) -> Mapping[str, Any]:
        """See `Link.policy`."""
        return _of_all(await self._call("ewsjf_state"))

    async def configure(self, change: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Link.configure`."""
        try:
            answers = await Ranks(self._llm).configure(dict(change))
        except EngineUnavailable as error:
            raise EngineError(str(error)) from None
        if not answers[0]["applied"]:
            raise ConfigError(answers[0]["error"])
        return _of_all(answers)

    async def leave(self, change: Mapping[str, Any]) -> None:
        """See `Link.leave`."""
        await self.configure(change)

    async def window(self, since: str, open_requests: bool) -> Mapping[str, Any]:
        """See `Link.window`."""
        ranks = Ranks(self._llm)
        starts = places(since, len(ranks)).split(".")
        try:
            answers = await ranks.call_each(
                "ewsjf_window", [(int(place), open_requests) for place in starts]
            )
        except EngineUnavailable as error:
            raise EngineError(str(error)) from None
        return {"next": ".".join(str(answer["next"]) for answer in answers), "ranks": answers}

    async def generate(self, name: str, token_ids: list[int], max_tokens: int, told: Told) -> None:
        """See `Link.generate`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            max_tokens=max_tokens,
            ignore_eos=True,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        tokens = 0
        try:
            async for output in self._llm.generate(
                {"prompt_token_ids": token_ids}, sampling, request_id=name
            ):
                tokens += len(output.outputs[0].token_ids)
                told(tokens)
        except Exception as error:  # vLLM's own: the engine is dead, or refuses the request
            kind = Rejected if getattr(error, "http_status", None) == 503 else EngineError
            raise kind(" ".join(str(error).split()) or type(error).__name__) from error

    async def close(self) -> None:
        """See `Link.close`; stops vLLM."""
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None

    async def _call(self, utility: str, *arguments: Any) -> list[dict[str, Any]]:
        try:
            return await Ranks(self._llm).call(utility, *arguments)
        except EngineUnavailable as error:
            raise EngineError(str(error)) from None


def _of_all(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The first rank decides; see `Link.policy`."""
    return {**states[0], "ranks": states}


def _start(config: LiveConfig) -> Any:
    """Import and start vLLM."""
    given = config.engine_arguments()
    if config.simulate is not None:
        if os.environ.get(SWITCH) != "1" and "vllm" in sys.modules:
            raise ConfigError(
                f"live: simulate: vLLM is in this process already; set {SWITCH}=1 before it starts"
            )
        os.environ[SWITCH] = "1"
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    valid = [f.name for f in dataclasses.fields(AsyncEngineArgs)]
    for name in given:
        if name not in valid:
            raise ConfigError(f"live: arguments: unknown {name!r}{nearest(name, valid)}")
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**given))
    except ConfigError:
        raise
    except Exception as error:  # vLLM's own: of a configuration or a device that does not do
        reason = (" ".join(str(error).split()) or type(error).__name__)[:500]
        raise EngineError(f"vLLM does not start: {reason}") from error
