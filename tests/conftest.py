"""Settings that must be in force before anything heavy is imported."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Nothing that a test does may reach out of the machine or open a window.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

# The same examples in every CI run: a red run then means a changed program, not a lucky draw.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a launcher keeps for its server is kept beside the tests' own files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
