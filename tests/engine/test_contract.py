from ewsjf_env.engine.base import Engine
from ewsjf_env.engine.fake import FakeConfig, FakeEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from tests.engine.engine_contract import EngineContract


class TestFakeEngine(EngineContract):
    def make_engine(self) -> Engine:
        return FakeEngine(FakeConfig(noise_sigma=0.2, drift_per_s=0.01, cliff=0.1))


class TestSimulatedEngine(EngineContract):
    def make_engine(self) -> Engine:
        return SimulatedEngine(SimulatedConfig(kv_blocks=3500, noise_sigma=0.1))
