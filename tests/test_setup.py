"""The set-up scripts: what they install, that they resume, and how they refuse.

The interpreter is a stand-in that notes the pip commands instead of running them, so that the
scripts' own decisions are tested in fractions of a second.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.setup_stand_in import ROOT, STAND_IN, Setup

SCRIPTS = [ROOT / "scripts" / name for name in ("setup_env.sh", "quickstart.sh", "test.sh")]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what is wrong."""
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("[setup] error: ")]
    assert len(lines) == 1
    assert done.stderr.endswith(f"{lines[0]}\n")
    return lines[0].removeprefix("[setup] error: ")


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_parse_and_can_be_executed(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")


def test_without_a_gpu_torch_comes_first_and_vllm_is_built_without_kernels(setup: Setup) -> None:
    done = setup.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{setup.venv}/bin/python\n"
    assert setup.stages() == [
        "venv",
        "pip>=25.1",
        "torch==2.13.0",
        "setuptools-scm",
        "--no-binary",
        "--editable",
    ]
    commands = setup.commands()
    assert "torch==2.13.0" in commands[2]
    assert "--index-url" not in commands[2]
    assert commands[4].startswith("empty -m pip install ")
    assert commands[4].endswith("--no-build-isolation --no-binary vllm torch==2.13.0 vllm==0.32.0")
    assert commands[5].endswith(f"--editable {setup.project}")


def test_with_a_gpu_the_project_alone_brings_the_ordinary_wheel(setup: Setup) -> None:
    setup.tool("nvidia-smi", "echo 'GPU 0: some GPU (UUID: GPU-1)'")
    assert setup.run().returncode == 0
    assert setup.stages() == ["venv", "pip>=25.1", "--editable"]
    assert not any("empty" in line for line in setup.commands())
    constraints = (setup.venv / "ewsjf-setup" / "constraints.txt").read_text(encoding="utf-8")
    assert constraints.splitlines() == ["vllm==0.32.0", "torch==2.13.0"]


def test_the_tools_are_resolved_together_with_the_project(setup: Setup) -> None:
    assert setup.run("dev").returncode == 0
    assert setup.commands()[-1].endswith(
        f"--editable {setup.project} --group {setup.project}/pyproject.toml:dev"
    )


@pytest.mark.parametrize(
    ("vllm", "torch"), [("0.26.0", "2.11.0"), ("0.28.0", "2.13.0"), ("0.33.0", "2.14.0")]
)
def test_torch_follows_the_chosen_vllm(setup: Setup, vllm: str, torch: str) -> None:
    assert setup.run(EWSJF_VLLM_VERSION=vllm).returncode == 0
    assert f"torch=={torch} vllm=={vllm}" in setup.commands()[4]


def test_another_index_is_used_for_torch_alone(setup: Setup) -> None:
    assert setup.run(EWSJF_TORCH_INDEX="file:///wheels").returncode == 0
    with_index = [line for line in setup.commands() if "--index-url" in line]
    assert len(with_index) == 1
    assert "--index-url file:///wheels torch==2.13.0" in with_index[0]


def test_a_cuda_build_without_a_gpu_is_reported_once(setup: Setup) -> None:
    first = setup.run(FAKE_CUDA_TORCH="2.13.0+cu130")
    assert first.returncode == 0
    notes = [line for line in first.stderr.splitlines() if "note:" in line]
    assert len(notes) == 1
    assert "2.13.0+cu130" in notes[0]
    assert "EWSJF_TORCH_INDEX" in notes[0]
    assert "note:" not in setup.run(FAKE_CUDA_TORCH="2.13.0+cu130").stderr


def test_a_second_start_installs_nothing(setup: Setup) -> None:
    first, second = setup.run("dev"), setup.run("dev")
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert setup.commands() == []
    assert setup.run().returncode == 0
    assert setup.commands() == []


@pytest.mark.parametrize(
    ("failing", "repeated"),
    [
        (
            "pip>=25.1",
            ["venv", "pip>=25.1", "torch==2.13.0", "setuptools-scm", "--no-binary", "--editable"],
        ),
        ("torch==2.13.0", ["torch==2.13.0", "setuptools-scm", "--no-binary", "--editable"]),
        ("--no-binary", ["setuptools-scm", "--no-binary", "--editable"]),
        ("--editable", ["--editable"]),
    ],
)
def test_only_unfinished_stages_are_repeated(
    setup: Setup, failing: str, repeated: list[str]
) -> None:
    assert "installing" in error_of(setup.run(FAKE_FAIL=failing))
    assert setup.run().returncode == 0
    assert setup.stages() == repeated


def test_a_changed_project_file_repeats_the_project_stage_alone(setup: Setup) -> None:
    setup.run()
    with (setup.project / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert setup.run().returncode == 0
    assert setup.stages() == ["--editable"]


def test_packages_that_an_interrupted_install_left_are_removed(setup: Setup) -> None:
    assert setup.run(FAKE_FAIL="--no-binary").returncode == 1
    site = next(setup.venv.glob("lib/python3*/site-packages"))
    whole, half, stashed = (
        site / name for name in ("whole-1.dist-info", "half-1.dist-info", "~tashed")
    )
    for folder in (whole, half, stashed):
        folder.mkdir()
    (whole / "INSTALLER").write_text("pip\n", encoding="utf-8")
    assert setup.run().returncode == 0
    assert [path.exists() for path in (whole, half, stashed)] == [True, False, False]


def test_another_python_or_device_makes_the_environment_anew(setup: Setup) -> None:
    setup.run()
    left_over = setup.venv / "left-over"
    left_over.touch()
    other = setup.tool("other", STAND_IN)
    assert setup.run(EWSJF_PYTHON=str(other), FAKE_VERSION="3.12.1").returncode == 0
    assert setup.stages()[0] == "venv"
    assert not left_over.exists()
    assert setup.run(FAKE_VERSION="3.12.1").returncode == 0
    assert setup.commands() == []
    assert setup.run(EWSJF_DEVICE="cuda", FAKE_VERSION="3.12.1").returncode == 0
    assert setup.stages() == ["venv", "pip>=25.1", "--editable"]


def test_an_environment_of_somebody_else_is_added_to(setup: Setup, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    stand_in = str(setup.bin / "python3")
    environment = os.environ | {"FAKE_LOG": os.devnull}
    subprocess.run([stand_in, "-m", "venv", str(theirs)], env=environment, check=True)
    (theirs / "precious").touch()
    done = setup.run(EWSJF_VENV=str(theirs))
    assert done.stdout == f"{theirs}/bin/python\n"
    assert setup.stages()[0] == "pip>=25.1"
    assert (theirs / "precious").exists()


def test_a_folder_that_is_no_environment_is_left_alone(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").touch()
    message = error_of(setup.run(EWSJF_VENV=str(tmp_path / "home")))
    assert message == (
        f"EWSJF_VENV={tmp_path}/home exists and is not a Python environment; choose another folder."
    )
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"EWSJF_PYTHON": "no-such-python"},
            "EWSJF_PYTHON=no-such-python is not a Python interpreter that runs;"
            " Python 3.11 to 3.14 is needed.",
        ),
        (
            {"EWSJF_PYTHON": "python3", "FAKE_VERSION": "3.10.13"},
            "EWSJF_PYTHON=python3 is Python 3.10.13; Python 3.11 to 3.14 is needed.",
        ),
        (
            {"EWSJF_PYTHON": "python3", "FAKE_VERSION": "3.15.0"},
            "EWSJF_PYTHON=python3 is Python 3.15.0; Python 3.11 to 3.14 is needed.",
        ),
        (
            {"FAKE_NO_VENV": "1"},
            "python3 has no venv module; install it (Debian: apt-get install python3-venv).",
        ),
        (
            {"EWSJF_VLLM_VERSION": "0.34.0"},
            "EWSJF_VLLM_VERSION=0.34.0 is not supported; choose a release from 0.26.0 to 0.33.0.",
        ),
        ({"EWSJF_DEVICE": "tpu"}, "EWSJF_DEVICE=tpu is not known; choose cpu or cuda."),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    setup: Setup, variables: dict[str, str], message: str
) -> None:
    assert error_of(setup.run(**variables)) == message
    assert setup.commands() == []


def test_an_old_python_on_path_is_named(setup: Setup) -> None:
    for minor in (11, 12, 13, 14):
        setup.tool(f"python3.{minor}", "exit 127")
    message = error_of(setup.run(FAKE_VERSION="3.9.1"))
    assert message == (
        "no supported Python found (python3 is 3.9.1, Python 3.11 to 3.14 is needed);"
        " install one or set EWSJF_PYTHON."
    )


def test_a_supported_python_is_found_behind_an_old_one(setup: Setup) -> None:
    setup.tool("python3", "echo 3.9.1")
    for minor in (11, 12, 14):
        setup.tool(f"python3.{minor}", "exit 127")
    setup.tool("python3.13", STAND_IN)
    assert setup.run(FAKE_VERSION="3.13.0").returncode == 0


@pytest.mark.parametrize(("device", "needed_gib"), [("cpu", 6), ("cuda", 18)])
def test_too_little_disk_is_refused_before_anything_is_made(
    setup: Setup, device: str, needed_gib: int
) -> None:
    setup.disk(needed_gib - 1)
    message = error_of(setup.run(EWSJF_DEVICE=device))
    assert message.startswith(
        f"not enough disk: {setup.project} has {needed_gib - 1} GiB free"
        f" and the environment needs {needed_gib} GiB"
    )
    assert not setup.venv.exists()


def test_a_finished_environment_needs_no_free_disk(setup: Setup) -> None:
    setup.run()
    setup.disk(0)
    assert setup.run().returncode == 0


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "WARNING: Retrying ... NewConnectionError('Connection refused')",
            "the package index cannot be reached while installing torch 2.13.0; check the network"
            " and start again (finished stages are kept).",
        ),
        (
            "OSError: [Errno 28] No space left on device",
            "the disk is full while installing torch 2.13.0; free some space and start again.",
        ),
        (
            "ERROR: No matching distribution found for torch==2.13.0",
            "No matching distribution found for torch==2.13.0 with Python 3.11.7;"
            " try another EWSJF_PYTHON or EWSJF_VLLM_VERSION.",
        ),
    ],
)
def test_a_failed_install_says_why(setup: Setup, output: str, message: str) -> None:
    assert error_of(setup.run(FAKE_FAIL="torch==2.13.0", FAKE_MESSAGE=output)) == message


def test_an_unknown_failure_shows_the_end_of_its_log(setup: Setup) -> None:
    done = setup.run(FAKE_FAIL="torch==2.13.0", FAKE_MESSAGE="it broke")
    assert "\nit broke\n" in done.stderr
    assert error_of(done).endswith(f"end its log, {setup.venv}/ewsjf-setup/torch.log.")


def test_quickstart_sets_up_and_runs_the_main_job(setup: Setup) -> None:
    done = setup.run("--seeds", "1", script="scripts/quickstart.sh")
    assert done.returncode == 0, done.stderr
    tune, export, compare = setup.commands()[-3:]
    assert tune.startswith("scripts/train.py --agent bayes --config configs/env/quickstart.yaml ")
    assert export.startswith("scripts/export_policy.py runs/quickstart/tuning --out ")
    assert compare.startswith("scripts/evaluate.py --workload configs/workloads/mixed.yaml ")
    assert " --policies fcfs,random,hrrn,linear_aging,ewsjf,runs/quickstart/tuned.json " in compare
    assert compare.endswith(" --out runs/quickstart/evaluation --seeds 1")
    assert "scripts/serve.py --policy runs/quickstart/tuned.json -- MODEL" in done.stdout


def test_a_started_quickstart_is_continued(setup: Setup) -> None:
    run = setup.project / "runs/quickstart/tuning"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    done = setup.run(script="scripts/quickstart.sh", EWSJF_WINDOWS="30")
    assert done.returncode == 0, done.stderr
    assert "scripts/train.py --resume runs/quickstart/tuning --windows 30" in setup.commands()


@pytest.mark.parametrize("script", ["scripts/test.sh", ".ci/run"])
def test_every_check_runs_after_the_set_up(setup: Setup, script: str) -> None:
    done = setup.run(script=script)
    assert done.returncode == 0, done.stderr
    assert "--group" in setup.commands()[-5]
    assert setup.commands()[-4:] == [
        "-m ruff check .",
        "-m ruff format --check .",
        "-m mypy",
        "-m pytest -n 2 --dist worksteal",
    ]


def test_arguments_of_the_test_script_reach_pytest(setup: Setup) -> None:
    setup.run("tests/some", "-k", "a or b", script="scripts/test.sh")
    assert setup.commands()[-1] == "-m pytest -n 2 --dist worksteal tests/some -k a or b"


def test_a_failed_set_up_stops_the_scripts(setup: Setup) -> None:
    setup.disk(1)
    for script in ("scripts/quickstart.sh", "scripts/test.sh"):
        done = setup.run(script=script)
        assert done.returncode == 1
        assert setup.commands() == []
