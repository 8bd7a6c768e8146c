"""The suite does not mind which plug-ins of pytest are installed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLUGIN = """
import warnings
import pytest

def pytest_configure(config):
    warnings.warn(pytest.PytestDeprecationWarning("asyncio_default_fixture_loop_scope is unset"))
"""


def test_pytest_asyncio_changes_nothing(tmp_path: Path) -> None:
    """It warns where its options are unset, which ended the suite with an INTERNALERROR."""
    info = tmp_path / "pytest_asyncio-1.5.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-asyncio\nVersion: 1.5.0\n")
    (info / "entry_points.txt").write_text("[pytest11]\nasyncio = asyncio_stand_in\n")
    (tmp_path / "asyncio_stand_in.py").write_text(PLUGIN)
    words = ["-m", "pytest", "-q", "-n", "0", "--collect-only", "tests/test_plugins.py"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 test collected" in done.stdout
