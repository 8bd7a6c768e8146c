"""`--set a.b=3` of the commands that take a configuration."""

from pathlib import Path

import pytest

from agents.cli import check_env, compare, evaluate, policy_study, serve, train
from agents.runs.config import make_run_config
from agents.runs.folder import RunDir
from ewsjf_env.config import ConfigError

MAIN = {
    "train": train.main,
    "compare": compare.main,
    "policy_study": policy_study.main,
    "evaluate": evaluate.main,
    "serve": serve.main,
    "check_env": check_env.main,
}
TRAIN = "--agent bayes --config tuning_fake --dry-run"
COMPARE = "--out {} --tasks paper_overload --agents sobol --dry-run"


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", f"{TRAIN} --set safety.radius=5", "--set safety.radius: 5 is outside (0, 2]"),
        ("train", f"{TRAIN} --set safety.radis=1", "nearest valid path: 'safety.radius'"),
        ("train", f"{TRAIN} --set fake.active=0", "--set fake.active: 0 is outside [1, inf)"),
        ("train", f"{TRAIN} --set engine=fak", "--set engine: 'fak' is not one of"),
        ("train", f"{TRAIN} --set window_s", "--set: 'window_s' is not like a.b=3"),
        ("train", f"{TRAIN} --set agent..x=3", "--set: 'agent..x=3' is not like a.b=3"),
        ("train", f"{TRAIN} --set agent=3", "--set: 'agent=3' is not like agent.A.B=3"),
        (
            "train",
            "--agent bayes --dry-run --set rates_per_s.0=4",
            "--set rates_per_s.0: the list rates_per_s is not in the file; give all its values: "
            "--set rates_per_s=[4]",
        ),
        (
            "train",
            f"{TRAIN} --set policy=ewsfj",
            "--set policy: unknown policy 'ewsfj'; nearest valid name: 'ewsjf'",
        ),
        ("train", f"{TRAIN} --set policy=ewsjf(k=-1)", "--set policy: ewsjf(k=-1): parameter 'k'"),
        ("train", f"{TRAIN} --set reference=hrn", "--set reference: unknown policy 'hrn'"),
        ("train", f"{TRAIN} --set safety.radius_min=0.9", "--set safety.radius_min: 0.9 is outsi"),
        ("train", f"{TRAIN} --set tuned=[k,k]", "--set tuned: 'k' occurs twice"),
        ("train", f"{TRAIN} --set frozen=[k,k]", "--set frozen: 'k' occurs twice"),
        ("check_env", "--set policy=ewsfj", "--set policy: unknown policy 'ewsfj'"),
        (
            "train",
            f"{TRAIN} --set agent.search.radius=3",
            "--set agent.search.radius: 3 is outside (0, 1]",
        ),
        (
            "train",
            f"{TRAIN} --set agent.search.radiu=3",
            "--set agent.search.radiu: unknown key 'radiu'; "
            "nearest valid path: 'agent.search.radius'",
        ),
        ("train", "--resume {} --set windows=3", "--set: cannot be changed by --resume"),
        ("compare", f"{COMPARE} --set windows=0", "--set windows: 0 is outside [1, inf)"),
        ("compare", f"{COMPARE} --set window=2", "nearest valid path: 'windows'"),
        (
            "compare",
            f"{COMPARE} --set tasks.paper_overload.env.engin=3",
            "--set tasks.paper_overload.env.engin: unknown key 'engin'; nearest valid name: ",
        ),
        (
            "compare",
            f"{COMPARE} --set arms.x.agent=bayes --set arms.x.settings.searhc=1",
            "--set arms.x.settings.searhc: unknown key 'searhc'; nearest valid name: 'search'",
        ),
        ("evaluate", "--workload mixed --out {} --set metrics.x=1", "valid path: 'metrics.ttft_sl"),
        ("policy_study", "--out {} --set tuning.sees=1", "nearest valid path: 'tuning.seeds'"),
        ("evaluate", "--workload mixed --out {} --set max_num_seqs=0", "0 is outside [1, inf)"),
        ("evaluate", "--workload mixed --out {} --set max_num_seq=1", "path: 'max_num_seqs'"),
        (
            "evaluate",
            "--workload mixed --engine llama3-8b_h100 --out {} --set kv_blocks=1",
            "--set kv_blocks: 1 is outside [2, inf)",
        ),
        ("check_env", "--config tuning_fake --set window_s=0", "--set window_s: 0 is outside"),
        (
            "serve",
            "--policy ewsjf --tune remote --set remote.speed=0 --dry-run -- M",
            "--set remote.speed: 0 is outside (0, 1000]",
        ),
        (
            "serve",
            "--policy ewsjf --tune remote --set policy=ewsfj --dry-run -- M",
            "--set policy: unknown policy 'ewsfj'",
        ),
        ("serve", "--policy ewsjf --set windows=3 --dry-run -- M", "--set: 'windows=3' needs"),
    ],
)
def test_a_bad_value_is_one_line(
    command: str, words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert MAIN[command](words.format(tmp_path / "out").split()) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", f"{TRAIN} --set window_s=40 --set agent.startup_points=0", "windows of 40 s"),
        ("train", f"{TRAIN} --set fake.noise_sigma=0 --set workload=mixed", "traffic mixed"),
        ("compare", f"{COMPARE} --set windows=7 --set arms={{{{}}}}", "sobol 7"),
        (
            "compare",
            f"{COMPARE} --set tasks.paper_overload.env.window_s=2.5",
            "windows of 2.5 s",
        ),
        (
            "evaluate",
            "--workload mixed --out {} --dry-run --set max_num_seqs=40",
            "steps of 2048 tokens and 40 requests",
        ),
        (
            "evaluate",
            "--workload mixed --engine llama3-8b_h100 --out {} --dry-run --set max_num_seqs=40",
            "llama3-8b_h100, steps of 8192 tokens and 40 requests",
        ),
        (
            "serve",
            "--policy ewsjf --tune remote --set windows=3 --dry-run -- M",
            "vllm",
        ),
    ],
)
def test_a_value_is_set(
    command: str, words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert MAIN[command](words.format(tmp_path / "out").split()) == 0
    assert message in capsys.readouterr().out


def test_a_run_keeps_what_was_set(tmp_path: Path) -> None:
    sets = ["fake.active=2", "agent.search.radius=0.25"]
    run = make_run_config("bayes", "tuning_fake", None, sets)
    assert run.env.engine_settings.active == 2
    assert run.settings.search.radius == 0.25
    RunDir.create(tmp_path / "run", run).close()
    assert RunDir.open(tmp_path / "run").config == run
    with pytest.raises(ConfigError, match=r"^--set agent.storge: .*'agent.storage'"):
        make_run_config("bayes", None, None, ["agent.storge=x"])
