"""The engine contract on vLLM in this process; run as a module with a model folder.

An `AsyncLLM` leaves sockets open until its process ends, so it gets one of its own, and one
engine serves all tests in turn.  Prints a line for each test.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import Engine
from ewsjf_env.engine.real.live import LiveConfig, LiveEngine
from ewsjf_env.engine.stand_in.settings import ExecutorSettings
from tests.engine.engine_contract import EngineContract

LAST = "test_closes_twice_and_then_refuses"


class LiveContract(EngineContract):
    time_scale = 0.1
    repeats = False

    def __init__(self, folder: str) -> None:
        arguments = {"max_model_len": 4096, "max_num_seqs": 8}
        self.config = LiveConfig(folder, arguments, ExecutorSettings(speed=10.0))

    def make_engine(self) -> Engine:
        engine = LiveEngine(self.config)
        # However slow this machine is, windows have no gaps.
        engine.settings = dataclasses.replace(engine.settings, max_gap_s=60.0)
        return engine


def main(folder: str) -> None:
    contract = LiveContract(folder)
    contract.test_needs_traffic_and_a_policy()
    engine = contract.make_engine()
    found = inspect.getmembers(contract, inspect.ismethod)
    names = [name for name, method in found if name.startswith("test_")]
    shared = [n for n in names if "engine" in inspect.signature(getattr(contract, n)).parameters]
    shared.remove("test_the_same_traffic_gives_the_same_metrics")
    shared.remove(LAST)
    for name in [*shared, LAST]:
        engine.install(contract.policy())
        engine.reset(contract.trace())
        getattr(contract, name)(engine)
        print(name, flush=True)
    typing_error = LiveEngine(dataclasses.replace(contract.config, arguments={"max_num_seq": 8}))
    typing_error.install(contract.policy())
    try:
        typing_error.reset(contract.trace())
    except ConfigError as error:
        assert "unknown 'max_num_seq'; nearest valid name: 'max_num_seqs'" in str(error)
        print("refused", flush=True)
    typing_error.close()


if __name__ == "__main__":
    main(sys.argv[1])
