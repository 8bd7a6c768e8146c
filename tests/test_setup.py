"""The set-up scripts: what they install, that they resume, and how they refuse.

Python and uv are stand-ins that note what they are asked, so that the scripts' own decisions are
tested in fractions of a second.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.setup_stand_in import PYTHON, ROOT, Setup

NEEDED = (
    "install Python 3.11 to 3.14 with its venv module (Debian: python3-venv) or set EWSJF_PYTHON."
)


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


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_without_a_gpu_vllm_is_built_alone_and_without_kernels(
    setup: Setup, installer: str
) -> None:
    if installer == "pip":
        setup.tool("uv", "exit 127")
    done = setup.run("dev")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{setup.venv}/bin/python\n"
    assert ("uv cannot be had" in done.stderr) == (installer == "pip")
    made, *asked = setup.requests()
    assert made == "venv"
    assert all(line.startswith(installer) and "--constraint" in line for line in asked)
    build, torch, vllm, project = asked[-4:]
    assert build.endswith(f"--group {setup.project}/pyproject.toml:build")
    assert torch.endswith(" torch")
    assert vllm.startswith(f"{installer} empty ")
    assert vllm.endswith("--no-deps --no-build-isolation --no-binary vllm vllm")
    assert project.endswith(
        f"--editable {setup.project} --group {setup.project}/pyproject.toml:dev"
    )


def test_with_a_gpu_the_project_brings_the_ordinary_wheel(setup: Setup) -> None:
    setup.tool("nvidia-smi", "echo 'GPU 0: some GPU (UUID: GPU-1)'")
    assert setup.run().returncode == 0
    assert not any("empty" in line or "--no-binary" in line for line in setup.requests())


def test_pip_is_used_where_it_is_asked_for(setup: Setup) -> None:
    assert setup.run(EWSJF_INSTALLER="pip").returncode == 0
    assert not any(line.startswith("uv") for line in setup.requests())


def test_another_release_of_vllm_comes_with_its_own_versions(setup: Setup) -> None:
    constraints = setup.venv / "ewsjf-setup" / "constraints.txt"
    assert setup.run(EWSJF_VLLM_VERSION="0.26.0").returncode == 0
    assert constraints.read_text(encoding="utf-8").split() == ["torch==2.11.0", "vllm==0.26.0"]
    assert setup.run().returncode == 0
    pins = ROOT / "scripts" / "pins" / "cpu.txt"
    assert constraints.read_text(encoding="utf-8") == pins.read_text(encoding="utf-8")


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_another_index_is_used_for_torch_alone(setup: Setup, installer: str) -> None:
    setup.run(EWSJF_TORCH_INDEX="file:///wheels", EWSJF_INSTALLER=installer)
    with_index = [line for line in setup.requests() if "file:///wheels" in line]
    assert len(with_index) == 1
    assert with_index[0].endswith(" torch")


def test_a_cuda_build_without_a_gpu_is_reported_once(setup: Setup) -> None:
    first = setup.run(FAKE_CUDA_TORCH="1")
    assert first.returncode == 0
    assert first.stderr.count("note: torch came as its build for CUDA") == 1
    assert "note:" not in setup.run(FAKE_CUDA_TORCH="1").stderr


def test_pip_s_settings_reach_uv(setup: Setup, tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nfind-links = /wheels\n  /more\nextra-index-url = https://b/simple\n"
        "index-url = https://not-this/simple\n"
        "constraint = /constraints.txt\ncert = /of/pip.pem\n"
    )
    shown = setup.tool("uv", 'if [ "$3" = --help ]; then echo --group; else env; echo "$@"; fi')
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/uv.sh"), sys.executable, "pip", "install", "thing"],
        env={
            "PATH": f"{shown.parent}{os.pathsep}{os.environ['PATH']}",
            "PIP_CONFIG_FILE": str(config),
            "PIP_INDEX_URL": "https://a/simple",
            "SSL_CERT_FILE": "/of/the/user.pem",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    expected = {
        "UV_PYTHON=" + sys.executable,
        "UV_DEFAULT_INDEX=https://a/simple",
        "UV_INDEX=https://b/simple",
        "UV_INDEX_STRATEGY=unsafe-best-match",
        "UV_FIND_LINKS=/wheels,/more",
        "SSL_CERT_FILE=/of/the/user.pem",
        "pip install thing --constraint /constraints.txt",
    }
    assert expected <= set(done.stdout.splitlines())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_pins_hold_what_the_project_needs_and_name_no_place(device: str) -> None:
    text = (ROOT / "scripts" / "pins" / f"{device}.txt").read_text(encoding="utf-8")
    assert not re.search(r"^-|://|@|\+", text, re.MULTILINE)
    pins: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, version = line.partition(" ;")[0].split("==")
        pins.setdefault(name, []).append(version)
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = described["dependency-groups"]
    needed = [item for group in groups.values() for item in group if isinstance(item, str)]
    for requirement in map(Requirement, [*described["project"]["dependencies"], *needed]):
        versions = pins[requirement.name.lower()]
        assert all(version in requirement.specifier for version in versions), requirement


def test_a_second_start_installs_nothing(setup: Setup) -> None:
    first = setup.run("dev")
    for args in (["dev"], []):
        again = setup.run(*args)
        assert again.stdout == first.stdout
        assert setup.requests() == []


def test_the_tools_are_added_to_a_finished_environment(setup: Setup) -> None:
    setup.run()
    assert setup.run("dev").returncode == 0
    assert "venv" not in setup.requests()
    assert setup.requests()[-1].endswith(":dev")


def test_a_changed_project_file_updates_the_environment(setup: Setup) -> None:
    setup.run()
    with (setup.project / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert setup.run().returncode == 0
    assert "--editable" in setup.requests()[-1]
    assert "venv" not in setup.requests()


@pytest.mark.parametrize("stage", [":build", " torch", "--no-binary", "--editable"])
def test_after_a_failure_the_environment_is_completed(setup: Setup, stage: str) -> None:
    assert "installing" in error_of(setup.run(FAKE_FAIL=stage))
    assert setup.run().returncode == 0
    assert "venv" not in setup.requests()
    assert setup.run().returncode == 0
    assert setup.requests() == []


@pytest.mark.parametrize("stage", [":build", " torch", "--no-binary", "--editable"])
def test_after_a_kill_the_environment_is_made_anew(setup: Setup, stage: str) -> None:
    assert setup.run(FAKE_KILL=stage).returncode == -9
    left_over = setup.venv / "left-over"
    left_over.touch()
    assert setup.run().returncode == 0
    assert setup.requests()[0] == "venv"
    assert not left_over.exists()
    assert setup.run().returncode == 0
    assert setup.requests() == []


def test_two_starts_at_once_take_turns(setup: Setup) -> None:
    starts = [setup.start(FAKE_SLOW="0.3") for _ in range(2)]
    ends = [start.communicate(timeout=60) for start in starts]
    assert [start.returncode for start in starts] == [0, 0]
    assert sum("waiting for another set-up" in stderr for _, stderr in ends) == 1
    assert setup.requests().count("venv") == 1


def test_another_python_or_device_makes_the_environment_anew(setup: Setup) -> None:
    setup.run()
    other = setup.tool("other", PYTHON)
    assert setup.run(EWSJF_PYTHON=str(other), FAKE_VERSION="3.12.1").returncode == 0
    assert setup.requests()[0] == "venv"
    assert setup.run(FAKE_VERSION="3.12.1").returncode == 0
    assert setup.requests() == []
    assert setup.run(EWSJF_DEVICE="cuda", FAKE_VERSION="3.12.1").returncode == 0
    assert setup.requests()[0] == "venv"
    assert (setup.venv / "bin" / "home").read_text().strip() == str(other)


def test_an_environment_of_somebody_else_is_added_to(setup: Setup, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    environment = os.environ | {"FAKE_LOG": os.devnull}
    subprocess.run([setup.bin / "python3", "-m", "venv", theirs], env=environment, check=True)
    (theirs / "precious").touch()
    assert setup.run(EWSJF_VENV=str(theirs), FAKE_KILL="--editable").returncode == -9
    done = setup.run(EWSJF_VENV=str(theirs))
    assert done.stdout == f"{theirs}/bin/python\n"
    assert "venv" not in setup.requests()
    assert (theirs / "precious").exists()


def test_a_folder_that_is_no_environment_is_left_alone(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").touch()
    message = error_of(setup.run(EWSJF_VENV=str(tmp_path / "home")))
    assert message == (
        f"{tmp_path}/home is not an environment of Python 3.11 to 3.14; choose another EWSJF_VENV."
    )
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("args", "variables", "message"),
    [
        (
            [],
            {"EWSJF_PYTHON": "no-such-python"},
            f"no supported Python found (tried no-such-python); {NEEDED}",
        ),
        (
            [],
            {"EWSJF_PYTHON": "python3", "FAKE_UNSUPPORTED": "1"},
            f"no supported Python found (tried python3); {NEEDED}",
        ),
        (
            [],
            {"EWSJF_VLLM_VERSION": "0.34.0"},
            "EWSJF_VLLM_VERSION=0.34.0 is not supported; choose a release from 0.26.0 to 0.33.0.",
        ),
        ([], {"EWSJF_DEVICE": "tpu"}, "EWSJF_DEVICE=tpu is not known; choose cpu or cuda."),
        (
            [],
            {"EWSJF_VENV": "/proc/none/venv"},
            "cannot make /proc/none; choose another EWSJF_VENV.",
        ),
        ([], {"EWSJF_VENV": "/proc/venv"}, "cannot write /proc/venv; choose another EWSJF_VENV."),
        (["all"], {}, "unknown argument 'all'; the only one is dev."),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    setup: Setup, args: list[str], variables: dict[str, str], message: str
) -> None:
    assert error_of(setup.run(*args, **variables)) == message
    assert setup.requests() == []


def test_a_supported_python_is_found_behind_an_old_one(setup: Setup) -> None:
    setup.tool("python3", "exit 1")
    setup.tool("python3.12", "exit 127")
    setup.tool("python3.13", PYTHON)
    assert setup.run().returncode == 0
    assert (setup.venv / "bin" / "home").read_text().strip() == str(setup.bin / "python3.13")


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
    setup.disk(100)
    setup.run()
    setup.disk(0)
    assert setup.run().returncode == 0  # what is finished needs no more


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "error sending request for url",
            "the package index cannot be reached while installing torch and vLLM 0.32.0;"
            " check the network and start again (what is there is kept).",
        ),
        (
            "WARNING: Retrying ... NewConnectionError('Connection refused')",
            "the package index cannot be reached while installing torch and vLLM 0.32.0;"
            " check the network and start again (what is there is kept).",
        ),
        (
            "OSError: [Errno 28] No space left on device",
            "the disk is full while installing torch and vLLM 0.32.0; free some space and start"
            " again.",
        ),
        (
            "ERROR: No matching distribution found for torch==2.13.0",
            "no release of torch and vLLM 0.32.0 fits Python 3.11.7;"
            " try another EWSJF_PYTHON or EWSJF_VLLM_VERSION.",
        ),
    ],
)
def test_a_failed_install_says_why(setup: Setup, output: str, message: str) -> None:
    assert error_of(setup.run(FAKE_FAIL=" torch", FAKE_MESSAGE=output)) == message


def test_an_unknown_failure_shows_the_end_of_its_log(setup: Setup) -> None:
    done = setup.run(FAKE_FAIL=" torch", FAKE_MESSAGE="it broke")
    assert "\nit broke\n" in done.stderr
    assert error_of(done).endswith(f"end its log, {setup.venv}/ewsjf-setup/log.")


def test_quickstart_sets_up_and_runs_the_main_job(setup: Setup) -> None:
    done = setup.run("--seeds", "1", script="scripts/quickstart.sh")
    assert done.returncode == 0, done.stderr
    tune, export, compare = setup.requests()[-3:]
    assert tune.startswith("scripts/train.py --agent bayes --config configs/env/quickstart.yaml ")
    assert export.startswith("scripts/export_policy.py runs/quickstart/tuning --out ")
    assert ",runs/quickstart/tuned.json " in compare
    assert compare.endswith(" --out runs/quickstart/evaluation --seeds 1")
    assert "recommended: k=2" in done.stdout
    assert "export" not in done.stdout  # what is done already is not proposed
    assert done.stdout.count("tensorboard") == 1
    assert "`bayes tuning` in the tables is runs/quickstart/tuned.json." in done.stdout
    assert "/ewsjf serve --policy runs/quickstart/tuned.json -- MODEL" in done.stdout


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"FAKE_ADVICE": "do not serve it as it is: keep it: ewsjf serve"}, "breaks\nconstraints"),
        ({"FAKE_REFUSED": "3"}, "Nothing was found that is better than the start"),
    ],
)
def test_quickstart_serves_what_ships_where_the_tuned_policy_is_not_to_be_served(
    setup: Setup, said: dict[str, str], reason: str
) -> None:
    done = setup.run(script="scripts/quickstart.sh", **said)
    assert done.returncode == 0, done.stderr
    assert reason in done.stdout
    assert "/ewsjf serve --policy ewsjf -- MODEL" in done.stdout
    assert "serve --policy runs/" not in done.stdout
    assert ("tuned.json" in setup.requests()[-1]) is ("FAKE_REFUSED" not in said)


def test_quickstart_ends_where_the_export_fails(setup: Setup) -> None:
    done = setup.run(script="scripts/quickstart.sh", FAKE_REFUSED="1")
    assert done.returncode == 1
    assert "ewsjf serve --policy" not in done.stdout
    assert setup.requests()[-1].startswith("scripts/export_policy.py")


def test_a_started_quickstart_is_continued(setup: Setup) -> None:
    run = setup.project / "runs/quickstart/tuning"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    done = setup.run(script="scripts/quickstart.sh", EWSJF_WINDOWS="30")
    assert done.returncode == 0, done.stderr
    assert "scripts/train.py --resume runs/quickstart/tuning --windows 30" in setup.requests()


@pytest.mark.parametrize("script", ["scripts/test.sh", ".ci/run"])
def test_every_check_runs_after_the_set_up(setup: Setup, script: str) -> None:
    done = setup.run(script=script)
    assert done.returncode == 0, done.stderr
    assert setup.requests()[-5].endswith(":dev")
    assert setup.requests()[-4:] == [
        "-m ruff check .",
        "-m ruff format --check .",
        "-m mypy",
        "-m pytest -n 2 --dist worksteal",
    ]


def test_arguments_of_the_test_script_reach_pytest(setup: Setup) -> None:
    setup.run("tests/some", "-k", "a or b", script="scripts/test.sh")
    assert setup.requests()[-1] == "-m pytest -n 2 --dist worksteal tests/some -k a or b"


@pytest.mark.parametrize("script", ["scripts/quickstart.sh", "scripts/test.sh"])
def test_a_failed_set_up_stops_the_scripts(setup: Setup, script: str) -> None:
    setup.disk(1)
    assert setup.run(script=script).returncode == 1
    assert setup.requests() == []
