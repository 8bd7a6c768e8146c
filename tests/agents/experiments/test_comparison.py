import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agents.experiments.tuners.config import ComparisonConfig, load_comparison
from agents.experiments.tuners.report import markdown
from agents.experiments.tuners.summary import summarise
from agents.experiments.tuners.tuning_runs import play_all, runs_of
from agents.runs.config import make_run_config
from agents.runs.context import Smoother
from ewsjf_env.config import ConfigError, from_dict, load_yaml
from ewsjf_env.env.env import SchedulerTuningEnv
from ewsjf_env.env.task import load_tuning
from tests.agents.experiments.comparisons import ENV

TASKS = {"fake": {"env": ENV, "held_out": {"seeds": 2, "windows": 2}}}
CONFIG = {"windows": 6, "tasks": TASKS, "curve": [1, 3, 6], "curve_arms": ["random"]}


def config(**changes: Any) -> ComparisonConfig:
    return from_dict(ComparisonConfig, {**CONFIG, **changes}, "compare")


def played(out: Path, arms: list[str], seeds: int = 2, **changes: Any) -> list[dict[str, Any]]:
    chosen = config(**changes)
    judged, failures = play_all(chosen, runs_of(chosen, arms, seeds, out), 1, lambda it, _: it)
    assert failures == {}
    return judged


def test_runs_are_played_once(tmp_path: Path) -> None:
    first = played(tmp_path, ["random", "default"])
    lines = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("windows.jsonl")}
    assert len(lines) == 4
    assert played(tmp_path, ["random", "default"]) == first
    assert {path: path.stat().st_mtime_ns for path in lines} == lines
    # A killed run has no judgement: it is continued, and judged as it would have been.
    (lost,) = (tmp_path / "judged").glob("fake__random__seed1__*.json")
    lost.unlink()
    again = {(r["arm"], r["seed"]): r for r in played(tmp_path, ["random", "default"])}
    before = {(r["arm"], r["seed"]): r for r in first}
    assert again["random", 1]["final"] == before["random", 1]["final"]
    assert again["random", 1]["curve"] == before["random", 1]["curve"]


def test_a_judgement_that_lacks_a_key_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = played(tmp_path, ["random"])
    for number, key in enumerate(("final", "rewards")):
        (path,) = (tmp_path / "judged").glob(f"fake__random__seed{number}__*.json")
        data = json.loads(path.read_text())
        del data[key]
        path.write_text(json.dumps(data))
    capsys.readouterr()
    again = played(tmp_path, ["random"])
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert told.endswith(" and 1 more: damaged, or written by an older version; made again")
    wall = ("tuned_wall_s", "tuner_s_per_window")
    kept = [{k: v for k, v in row.items() if k not in wall} for row in first]
    assert [{k: v for k, v in row.items() if k not in wall} for row in again] == kept


def test_other_settings_play_again(tmp_path: Path) -> None:
    played(tmp_path, ["default"], seeds=1)
    assert [r["windows"] for r in played(tmp_path, ["default"], seeds=1, windows=3)] == [3]


def test_all_arms_of_a_seed_meet_the_same_traffic(tmp_path: Path) -> None:
    played(tmp_path, ["random", "sobol"])
    for seed in range(2):
        traces = []
        for arm in ("random", "sobol"):
            path = tmp_path / f"runs/fake/{arm}/seed_{seed:04d}/windows.jsonl"
            traces.append(
                [json.loads(line)["plan"]["trace"] for line in path.read_text().splitlines()]
            )
        assert traces[0] == traces[1]


def test_arms_have_settings_of_their_own() -> None:
    arms = {"careful": {"agent": "random", "windows": 3, "guarded": True, "policy": "ewsjf(k=9)"}}
    chosen = config(arms=arms)
    run = chosen.run_config("fake", "careful", 7)
    assert (run.agent, run.windows, run.seed) == ("random", 3, 7)
    assert run.env.safety.enabled
    assert run.task.start_policy().parameters["k"] == 9.0
    assert not chosen.run_config("fake", "random", 7).env.safety.enabled


def test_a_policy_is_an_arm_that_is_never_tuned() -> None:
    """`boost_ada` refits its only parameter itself: a policy, and no agent."""
    run = config().run_config("fake", "boost_ada", 7)
    assert (run.agent, run.task.policy) == ("default", "boost_ada")
    ours = config().run_config("fake", "default", 7)
    assert ours.task.policy == "ewsjf"
    assert run.to_dict()["parameter_space_hash"] != ours.to_dict()["parameter_space_hash"]
    with pytest.raises(ConfigError, match="unknown 'boost_adda'; nearest valid name: 'boost_ada'"):
        config().arm("boost_adda")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {}}, "tasks: none is given"),
        ({"windows": 0}, "windows: 0 is outside"),
        ({"arms": {"x": {"agent": "bays"}}}, "nearest valid name: 'bayes'"),
        ({"tasks": {"a": {"env": {"workload": "mixd"}}}}, "tasks: a: env: workload: 'mixd'"),
        ({"tasks": {"a": {"env": {}, "jump_window": 3}}}, "after_jump: give it together"),
        ({"tasks": {"a": {"env": {}, "held_out": {"seed": 3}}}}, "nearest valid name: 'seeds'"),
        ({"tasks": {"a": {"env": {"windos": 3}}}}, "tasks: a: env: unknown key 'windos'"),
        ({"tasks": {"../a": {"env": {}}}}, "tasks: '../a' is no name for a folder"),
        ({"arms": {"a/b": {"agent": "sobol"}}}, "arms: 'a/b' is no name for a folder"),
        ({"curve_arms": ["bays"]}, "curve_arms: unknown 'bays'; nearest valid name: 'bayes'"),
        ({"curve": [-1]}, "curve[0]: -1 is outside"),
        (
            {"tasks": {"a": {"env": {}, "held_out": {"rates_per_s": [-1.0]}}}},
            "tasks: a: held_out: rates_per_s[0]: -1.0 is outside",
        ),
    ],
)
def test_bad_configurations_are_one_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(**changes)


@pytest.mark.parametrize("name", ["compare", "compare_recorded"])
def test_the_configurations_that_ship_are_valid(name: str) -> None:
    data = yaml.safe_load(Path(f"configs/{name}.yaml").read_text())
    assert ("azure_code" in data["tasks"]) == (name == "compare_recorded")
    data["tasks"].pop("azure_code", None)
    shipped = from_dict(ComparisonConfig, data, name)
    for label in [*shipped.arms, "bayes", "random", "default"]:
        for task in shipped.tasks:
            assert shipped.run_config(task, label, 0).task.space()


def test_the_twin_study_that_ships_is_valid() -> None:
    study = load_comparison("configs/twin_study.yaml")
    command = Path("configs/twin_study.yaml").read_text().split("--agents", 1)[1].split()[2]
    tuned = ("lambda", "mu", "k", "prefill_share", "yield_share")
    for label in command.split(","):
        task = study.run_config("paper_mix", label, 0).task
        shaping = [name for name in task.space().names if name in tuned]
        assert shaping == list(tuned if task.start_policy().order == "ewsjf" else tuned[-2:])
        assert task.reference == "ewsjf"
    running = load_tuning(load_yaml("configs/env/remote_overload.yaml"), where="remote_overload")
    served = study.tasks["paper_mix"].tuning
    assert running.tuned == served.tuned
    assert (running.rates_per_s, running.window_s) == (served.rates_per_s, served.window_s)


def run_of(arm: str, seed: int, score: float, **changes: Any) -> dict[str, Any]:
    return {
        "task": "t",
        "arm": arm,
        "seed": seed,
        "windows": 10,
        "final": {"score": score, "violations": 0.0},
        "online_mean": score / 2,
        "violating": 0.1,
        "worst_window": -1.0,
        "void": 0,
        "failed": 0,
        "tuner_s_per_window": 0.1,
        **changes,
    }


def test_the_summary_by_hand() -> None:
    def curve(*scores: float) -> list[dict[str, float]]:
        return [{"windows": n, "score": s} for n, s in zip((1, 4, 8), scores, strict=True)]

    runs = [run_of("default", seed, 0.0) for seed in range(4)]
    runs += [run_of("random", s, x, curve=curve(0, 0, x)) for s, x in enumerate((0.2, 0.4, 0, 0.6))]
    runs += [run_of("bayes", s, 1.0, curve=curve(0.0, 0.96, 1.0)) for s in range(4)]
    task = summarise(runs)["tasks"]["t"]
    assert task["best_gain"] == 1.0
    bayes, random = task["arms"]["bayes"], task["arms"]["random"]
    assert bayes["gain"]["value"] == 1.0
    assert bayes["over_random"]["difference"]["value"] == pytest.approx(0.7)
    assert bayes["over_random"]["p"] == pytest.approx(2 / 16)  # all four signs agree
    assert bayes["over_random"]["probability"] == 1.0
    assert task["steady_gain"] == 1.0
    assert (
        bayes["windows_to_95"]
        == bayes["windows_to_steady"]
        == {"median": 4, "low": 4, "high": 4, "never": 0, "seeds": 4}
    )
    assert random["windows_to_95"]["median"] == "never"
    assert bayes["regret"]["value"] == pytest.approx((1.0 - 0.5) * 10)
    overall = summarise(runs)["overall"]
    assert overall["bayes"]["iqm"]["value"] == 1.0
    assert overall["default"]["iqm"]["value"] == 0.0
    assert overall["random"]["iqm"]["value"] == pytest.approx(0.3)


def test_the_best_mean_is_not_the_luckiest_run() -> None:
    def run(seed: int, *scores: float) -> dict[str, Any]:
        curve = [{"windows": n, "score": s} for n, s in zip((1, 4, 8), scores, strict=True)]
        return run_of("bayes", seed, scores[-1], curve=curve)

    runs = [run_of("default", seed, 0.0) for seed in range(2)]
    task = summarise([*runs, run(0, 0.0, 0.4, 0.2), run(1, 0.0, 0.2, 0.2)])["tasks"]["t"]
    assert task["best_gain"] == 0.4
    assert task["steady_gain"] == pytest.approx(0.3)  # after four windows, not at the end
    assert task["arms"]["bayes"]["windows_to_steady"]["never"] == 1
    # Without any curve it is the best mean of what tuners end with; a fixed policy is none.
    runs += [run_of("rival", seed, 0.9, agent="default") for seed in range(2)]
    without = summarise([*runs, run_of("bayes", 0, 0.1), run_of("bayes", 1, 0.3)])
    assert without["tasks"]["t"]["steady_gain"] == pytest.approx(0.2)


def test_an_arm_of_another_order_tunes_what_it_has() -> None:
    env = {"tuned": ["lambda", "prefill_share"], "frozen": ["k"], "reference": "ewsjf"}
    arms = {"fcfs": {"agent": "default", "policy": "fcfs"}}
    arms |= {"hrrn": {"agent": "bayes", "policy": "hrrn"}}
    for bad, message in (
        ({"policy": "fcsf"}, r"arms: bad: policy: unknown policy 'fcsf'; nearest.*'fcfs'"),
        ({"settings": {"surogate": {}}}, r"arms: bad: settings: unknown key 'surogate'; nearest"),
    ):
        with pytest.raises(ConfigError, match=message):  # at once, whether it is played or not
            config(arms=arms | {"bad": {"agent": "tpe", **bad}})
    found = config(tasks={"a": {"env": env}, "b": {"env": {"tuned": ["lambda"]}}}, arms=arms)
    assert "exponent" in found.run_config("b", "hrrn", 0).task.space().names
    assert found.run_config("a", "fcfs", 0).task.space().names == ("prefill_share",)
    assert found.run_config("a", "default", 0).task.space().names == ("lambda", "prefill_share")


def test_a_seed_that_an_arm_lacks_counts_for_none() -> None:
    def runs(arm: str, scores: dict[int, float]) -> list[dict[str, Any]]:
        return [run_of(arm, seed, score) for seed, score in scores.items()]

    equal = {0: 0.1, 1: 0.5, 2: 0.9}
    lacking = {seed: score for seed, score in equal.items() if seed > 0}
    judged = [*runs("default", dict.fromkeys(range(3), 0.0)), *runs("random", equal)]
    task = summarise([*judged, *runs("bayes", lacking)])["tasks"]["t"]
    assert (task["seeds"], task["seeds_left_out"]) == (2, [0])
    assert task["arms"]["bayes"]["over_random"]["difference"]["value"] == 0.0
    assert task["arms"]["random"]["gain"]["value"] == pytest.approx(0.7)


def test_a_task_without_any_gain_has_no_scores() -> None:
    runs = [run_of(arm, seed, 0.0) for arm in ("default", "random") for seed in range(2)]
    summary = summarise(runs)
    assert summary["tasks"]["t"]["arms"]["random"]["normalised"] is None
    assert summary["overall"] == {}


def test_a_recording_that_all_tasks_lack_leaves_no_task_to_be_named() -> None:
    missing = {"env": {"workload": "azure_code_first"}}
    with pytest.raises(ConfigError, match=r"tasks: a: .*tasks\.a\.env\.workload=FILE") as told:
        config(tasks={"a": missing, "b": missing})
    assert "--tasks" not in str(told.value)


def test_a_failed_run_is_named_and_loses_no_other(tmp_path: Path) -> None:
    broken = {**ENV, "fake": {"optimum_seed": 1}, "failure_reward": -1.0}
    chosen = config(tasks={**TASKS, "broken": {"env": broken, "held_out": {"seeds": 1}}})
    jobs = runs_of(chosen, ["default"], 1, tmp_path)
    (tmp_path / "runs/broken").mkdir(parents=True)
    (tmp_path / "runs/broken/default").write_text("in the way")
    judged, failures = play_all(chosen, jobs, 1, lambda it, _: it)
    assert [r["task"] for r in judged] == ["fake"]
    assert list(failures) == ["broken/default/seed 0"]


def test_contexts_are_medians_and_observations_are_not() -> None:
    env = SchedulerTuningEnv(ENV)
    names = env.feature_names
    for agent, expected in (("bayes", 0.2), ("sac", -0.9)):
        smoother = Smoother(make_run_config(agent, ENV), names)
        for value in (0.2, 0.9, -0.9):
            smoother.add(np.full(len(names), value))
        assert set(smoother.view) == {expected}
        smoother.reset()
        smoother.add(np.full(len(names), 0.5))
        assert set(smoother.view) == {0.5}
    assert math.isclose(len(smoother.view), len(names))


def test_a_report_tells_only_of_arms_that_ran(tmp_path: Path) -> None:
    for arms, said in (("default", True), ("sobol", False)):
        runs = [run_of(arm, seed, 0.5 * seed) for arm in ("random", arms) for seed in range(5)]
        runs += [run_of("best_static", seed, 1.0) for seed in range(5) if said]
        meta = {"command": "x", "seeds": 1, "arms": list(dict.fromkeys(r["arm"] for r in runs))}
        text = markdown(summarise(runs), meta)
        assert ("`default`" in text) == said
        assert ("P(better than default)" in text) == said
        assert ("`best_static` searches offline" in text) == said
        assert "sac_long" not in text
        assert "1 tuning seed;" in text
        assert "P(better than random)" in text


def test_what_a_flag_sets_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "seeds": 3}))
    with pytest.raises(ConfigError, match=r"compare\.yaml: seeds: is not set here but by --seeds"):
        load_comparison(path)


def test_a_missing_file_is_one_error() -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_comparison("none.yaml")


@pytest.mark.parametrize(("seeds", "warned"), [(2, True), (4, True), (5, False)])
def test_bold_is_the_best_and_few_seeds_are_warned_of(seeds: int, warned: bool) -> None:
    gains = {"default": 0.0, "random": 0.2, "bayes": 0.3, "tpe": 0.5}
    runs = [run_of(arm, seed, gain) for arm, gain in gains.items() for seed in range(seeds)]
    text = markdown(summarise(runs), {"command": "x", "seeds": seeds, "arms": list(gains)})
    assert ("**Warning: " in text) is warned
    assert "1.00 [1.00, 1.00]" in text  # of which the warning warns
    assert ("P(better" in text) is not warned
    assert ("| p |" in text) is not warned
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:2] == "| "}
    assert "**+0.500" in next(line for line in text.splitlines() if line.startswith("| tpe |"))
    assert not any("**bayes**" in name for name in rows)
