"""What pyproject.toml cannot say: the folder `configs` goes into the wheel as package data."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Copies `configs` to where `ewsjf_env/shipped.py` looks for it without a checkout."""

    def run(self) -> None:
        """Build, and copy unless the installation is editable: then the checkout is there."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "ewsjf_env" / "configs"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / "configs", target)


setup(cmdclass={"build_py": BuildWithConfigs})
