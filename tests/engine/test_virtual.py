import os
import subprocess
import sys

import pytest

from ewsjf_env.engine.compiled.engine import CompiledEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.engine import SimulatedEngine
from ewsjf_env.engine.virtual import build_virtual, can_compile

PROGRAM = """
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.virtual import build_virtual
for _ in range(2):
    print(type(build_virtual(SimulatedConfig())).__name__)
"""


@pytest.mark.parametrize(
    ("name", "kind"), [("compiled", CompiledEngine), ("simulated", SimulatedEngine)]
)
def test_the_settings_name_the_engine(name: str, kind: type) -> None:
    assert can_compile()
    assert isinstance(build_virtual(SimulatedConfig(engine=name)), kind)


def test_where_nothing_compiles_the_other_engine_plays_and_that_is_said_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["SimulatedEngine"] * 2
    assert done.stderr.count("NUMBA_DISABLE_JIT is set: the engine simulated plays") == 1
