"""An `AsyncLLM` with two data-parallel ranks under changes from several writers at once.

Run as a module with a model folder; prints "converged" when all is well.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from ewsjf_env.config import to_dict
from ewsjf_env.engine.stand_in.model_folder import words
from ewsjf_env.engine.stand_in.server import EXECUTOR_CLASS
from ewsjf_env.engine.stand_in.settings import KEY, ExecutorSettings
from ewsjf_env.policy.policy import parse_policy
from ewsjf_env.serving.launch import SCHEDULER_CLASS
from ewsjf_env.serving.ranks import EngineUnavailable, Ranks


async def main(folder: str) -> None:
    settings = ExecutorSettings(speed=10.0)
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=folder,
            load_format="dummy",
            max_model_len=4096,
            enable_prefix_caching=False,
            distributed_executor_backend=EXECUTOR_CLASS,
            scheduler_cls=SCHEDULER_CLASS,
            additional_config={KEY: to_dict(settings)},
            data_parallel_size=2,
        )
    )
    try:
        ranks = Ranks(engine)
        assert len(ranks) == 2
        # Changes of both kinds, all under way at once, as from several front ends.
        changes = [
            {"parameters": {"k": 2.0 + index}} if index % 3 else parse_policy("ewsjf").to_dict()
            for index in range(30)
        ]
        changes[17] = parse_policy("hrrn").to_dict()  # later parameters do not suit it
        answers = await asyncio.gather(*(ranks.configure(change) for change in changes))
        first, second = await ranks.call("ewsjf_state")
        assert first["rank"] == 0 and second["rank"] == 1
        assert first["policy_version"] == second["policy_version"]
        for key in ("name", "order", "parameters"):
            assert first["policy"][key] == second["policy"][key]
        applied = [answer[0] for answer in answers if answer[0]["applied"]]
        assert first["policy_version"] == len(applied)
        await _repair(engine, ranks)
        sampling = SamplingParams(max_tokens=2, ignore_eos=True)
        async for _ in engine.generate(words(5), sampling, request_id="r"):
            pass
        windows = await ranks.call("ewsjf_window", 0)
        assert sum(len(window["finished"]) for window in windows) == 1
        try:
            await ranks.call("no_such_utility")
        except EngineUnavailable as error:
            assert "no_such_utility" in str(error)
        else:
            raise AssertionError("a utility that does not exist was answered")
    finally:
        engine.shutdown()


async def _repair(engine: Any, ranks: Ranks) -> None:
    """A rank that serves another order, to which new values do not apply, gets the whole policy."""
    core = engine.engine_core
    await core._call_utility_async("ewsjf_configure", {"order": "sjf"}, engine=core.core_engines[1])
    assert (await ranks.configure({"order": "ewsjf"}))[0]["applied"]
    await core._call_utility_async(
        "ewsjf_configure", {"order": "hrrn"}, None, None, engine=core.core_engines[1]
    )
    # The stray change counted on, so the next one from the first rank only draws level.
    await ranks.configure({"parameters": {"k": 3.0}})
    answers = await ranks.configure({"parameters": {"k": 4.0}})
    assert [answer["policy"]["order"] for answer in answers] == ["ewsjf", "ewsjf"]
    assert [answer["policy"]["parameters"]["k"] for answer in answers] == [4.0, 4.0]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
    print("converged")
