import re
from pathlib import Path
from typing import Any

import pytest

from ewsjf_env.config import ConfigError, from_dict, load_yaml, to_dict
from ewsjf_env.engine.base import Engine
from ewsjf_env.engine.fake import FakeConfig, FakeEngine
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.env.engines import ENGINES
from ewsjf_env.env.registration import REAL_TIME
from ewsjf_env.env.task import SafetySettings, Task, load_tuning

CONFIGS = Path(__file__).parents[2] / "configs" / "env"


def test_the_commented_file_says_the_defaults() -> None:
    assert load_tuning(CONFIGS / "tuning.yaml") == Task()


def test_the_fake_task_loads() -> None:
    config = load_tuning(CONFIGS / "tuning_fake.yaml")
    assert isinstance(config.build_engine(), FakeEngine)
    assert config.engine_settings.cliff == 0.25


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("tuning*.yaml")), ids=lambda p: p.name)
def test_a_configuration_survives_the_round_trip(path: Path) -> None:
    config = load_tuning(path)
    assert from_dict(Task, to_dict(config), "again") == config
    assert load_tuning(config) is config


@pytest.mark.parametrize("engine", REAL_TIME)
def test_real_servers_are_guarded_and_judged_by_service_levels(engine: str) -> None:
    config = load_tuning({"engine": engine, "safety": {"radius": 0.2}})
    assert config.safety.enabled and config.safety.radius == 0.2
    assert config.reference_policy() is None
    assert config.objective.kind == "goodput"
    assert not any(constraint.relative for constraint in config.constraints)
    assert not load_tuning({"engine": engine, "safety": {"enabled": False}}).safety.enabled
    twin = config.twin()
    assert twin.engine == "compiled" and twin.metric_settings == config.metric_settings
    assert twin.objective == config.objective
    with pytest.raises(ConfigError, match="reference: 'ewsjf' cannot serve the traffic"):
        load_tuning({"engine": engine, "reference": "ewsjf"})


def test_the_twin_of_several_ranks_is_one_at_its_share_of_the_load() -> None:
    two = {"urls": ["http://a:1", "http://b:1"]}
    task = {"engine": "remote", "rates_per_s": [6.0, 9.0], "remote": two}
    assert load_tuning(task).twin().rates_per_s == (3.0, 4.5)
    assert load_tuning({**task, "remote": {**two, "ranks": 6}}).twin().rates_per_s == (1.0, 1.5)
    assert load_tuning({**task, "remote": {}}).twin().rates_per_s == (6.0, 9.0)
    with pytest.raises(ConfigError, match="rates_per_s: empty, but 2 ranks share the traffic"):
        load_tuning({**task, "rates_per_s": []})


@pytest.mark.parametrize("name", ["live", "remote"])
def test_the_tasks_of_real_servers_load(name: str) -> None:
    config = load_tuning(CONFIGS / f"{name}.yaml")
    assert config.engine == name and config.safety.enabled
    assert from_dict(Task, to_dict(config), "again") == config


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_can_be_built(engine: str) -> None:
    built = load_tuning({"engine": engine}).build_engine()
    assert isinstance(built, Engine)
    built.close()


def test_the_space_starts_at_the_policys_values() -> None:
    config = load_tuning({"policy": "ewsjf(k=3)", "frozen": ["delta", "alpha"]})
    space = config.space()
    assert space.defaults["k"] == 3.0
    assert "delta" not in space
    assert "prune" not in space
    assert load_tuning({"tuned": ["mu", "lambda"]}).space().names == ("lambda", "mu")
    assert load_tuning({"tuned": ["mu", "k"], "frozen": ["mu"]}).space().names == ("k",)
    assert load_tuning({"policy": "linear_aging"}).space().names == ("r",)


def test_an_episode_is_warm_up_and_windows() -> None:
    data = {"windows": 3, "window_s": 10.0, "settle_s": 2.0, "warmup_s": 4.0}
    assert load_tuning(data).episode_s == 40.0


def test_the_id_names_the_engine_where_the_source_does_not() -> None:
    assert load_tuning(None, "fake").engine == "fake"
    assert load_tuning({"windows": 3}, "fake").engine == "fake"
    assert load_tuning(CONFIGS / "tuning_fake.yaml", "fake").engine == "fake"
    with pytest.raises(ConfigError, match="'fake' is configured, this id is for 'simulated'"):
        load_tuning({"engine": "fake"}, "simulated")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"window": 3}, "config: unknown key 'window'; nearest valid name: 'window"),
        ({"engine": "simulatd"}, "engine: 'simulatd' is not one of.*'simulated'"),
        ({"windows": 0}, "windows: 0 is outside"),
        ({"window_s": 1e-9}, r"window_s: 1e-09 is outside \[0.1, inf\)"),
        ({"window_s": "1e-9"}, "window_s: expected a number, got '1e-9'; YAML wants 1.0e-9"),
        ({"warmup_s": 0.0}, r"warmup_s: 0.0 is outside \[0.1, inf\)"),
        ({"settle_s": -1.0}, "settle_s"),
        ({"rates_per_s": [0.0]}, "rates_per_s"),
        ({"policy": "ewsfj"}, "unknown policy 'ewsfj'.*'ewsjf'"),
        ({"policy": "fcfs"}, "'fcfs' leaves no parameter to tune"),
        ({"frozen": ["lamda"]}, "config: frozen: unknown parameter 'lamda'.*'lambda'"),
        ({"tuned": ["w_cachd"]}, "config: tuned: unknown parameter 'w_cachd'.*'w_cached'"),
        ({"tuned": ["prune"]}, "'prune' is a structural switch"),
        ({"tuned": ["k"], "frozen": ["k"]}, "leaves no parameter"),
        ({"objective": {"kind": "gp"}}, "config: objective: kind: unknown objective 'gp'"),
        ({"reference": None}, "reference: null, but compared with it is 'objective relative'"),
        (
            {"reference": None, "objective": {"kind": "paper"}},
            "compared with it is 'ttft_short_p95_s_vs_reference'",
        ),
        ({"reference": "hrn"}, "unknown policy 'hrn'"),
        ({"simulated": {"measure_overhead": True}}, "measure_overhead"),
        ({"safety": {"control_every": 1}}, "control_every"),
        ({"safety": {"radius": 0.0}}, "radius"),
        (
            {"constraints": [{"metric": "wait_max_s", "limit": x} for x in (1.2, 2.0)]},
            "'wait_max_s_vs_reference' occurs twice",
        ),
    ],
)
def test_bad_configurations_are_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_tuning(data)


def test_a_task_without_reference_is_possible() -> None:
    config = load_tuning({"reference": None, "objective": {"kind": "paper"}, "constraints": []})
    assert config.reference_policy() is None


def test_files_name_themselves_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("windos: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"task.yaml: unknown key 'windos'.*'windows'"):
        load_tuning(str(path))


def test_the_guard_is_off_unless_asked_for() -> None:
    assert not SafetySettings().enabled
    assert load_yaml(CONFIGS / "tuning.yaml")["safety"]["enabled"] is False


def test_weights_of_work_are_tuned_only_where_they_are_named() -> None:
    names = load_tuning({"policy": "ewsjf"}).space().names
    assert "w_cached" not in names
    asked = load_tuning({"policy": "ewsjf", "tuned": ["k", "w_cached", "w_output"]}).space()
    assert asked.names == ("k", "w_cached", "w_output")
    with pytest.raises(ConfigError, match="structural switch"):
        load_tuning({"policy": "ewsjf", "tuned": ["route_by"]}).space()


def test_traffic_goes_on_while_a_tuner_of_a_running_server_thinks() -> None:
    task = {"windows": 3, "window_s": 60.0, "settle_s": 10.0, "warmup_s": 20.0}
    assert load_tuning(task).traffic_s == load_tuning(task).episode_s == 230.0
    assert load_tuning({**task, "engine": "remote"}).traffic_s >= 230.0 + 3 * 120.0


def test_a_task_holds_the_settings_of_one_engine() -> None:
    task = load_tuning({"engine": "fake", "fake": {"active": 2}, "live": {"model": "m"}})
    assert task.engine_settings == FakeConfig(active=2)
    assert task == Task(engine="fake", fake=FakeConfig(active=2))
    assert "live" not in to_dict(task)
    assert load_tuning(to_dict(task)) == task
    twin = SimulatedConfig(max_num_seqs=64)
    remote = load_tuning({"engine": "remote", "simulated": {"max_num_seqs": 64}})
    assert remote.simulated == remote.twin_settings == twin
    assert load_tuning(to_dict(remote)) == remote
    assert remote.twin().engine_settings == twin
    other = load_tuning({"engine": "fake", "fake": {"active": 3}})
    assert len({task.reference_name, other.reference_name, Task().reference_name}) == 3
    assert task.reference_name == load_tuning(to_dict(task)).reference_name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"engine": []}, "engine: [] is not one of"),
        ({"engine": "fak"}, "nearest valid name: 'fake'"),
        ({"fake": {"active": 0}}, "config: fake: active: 0 is outside [1, inf)"),
        ({"engine": "fake", "simulated": {"latncy": ""}}, "simulated: unknown key 'latncy'"),
        ({"engin": "fake"}, "config: unknown key 'engin'; nearest valid name: 'engine'"),
        ({"simulated": 3}, "config: simulated: expected a mapping, got int"),
    ],
)
def test_engines_are_checked_even_where_they_are_not_used(
    data: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tuning(data)
    assert message in str(caught.value)


MACHINE = {"max_num_seqs": 16}


@pytest.mark.parametrize(
    ("written", "engine"),
    [
        ({}, "compiled"),
        ({"simulated": MACHINE}, "compiled"),
        ({"engine": "compiled", "simulated": MACHINE}, "compiled"),
        ({"engine": "simulated", "simulated": MACHINE}, "simulated"),
        ({"simulated": {**MACHINE, "engine": "simulated"}}, "simulated"),
    ],
)
def test_both_engines_in_virtual_time_have_one_section(
    written: dict[str, object], engine: str
) -> None:
    config = load_tuning(written)
    assert config.engine == config.simulated.engine == engine and config.has_model
    assert config.simulated.max_num_seqs == (16 if "simulated" in written else 256)
    assert config.engine_name.startswith(f"{engine} llama2-13b")
    assert from_dict(Task, to_dict(config), "again") == config
    built = config.build_engine()
    assert type(built).__name__ == f"{engine.capitalize()}Engine"
    built.close()


def test_another_engine_is_set_in_one_word() -> None:
    config = load_tuning({"simulated": MACHINE}, sets=["engine=simulated"])
    assert config.engine == "simulated" and config.simulated.max_num_seqs == 16
    assert config.reference_name != load_tuning({"simulated": MACHINE}).reference_name


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({"compiled": {}}, "compiled: the settings of this engine stand under `simulated`"),
        (
            {"engine": "simulated", "simulated": {"engine": "compiled"}},
            "simulated: engine: 'compiled' contradicts engine: 'simulated' of the task",
        ),
        ({"engine": "compile"}, "nearest valid name: 'compiled'"),
    ],
)
def test_engines_that_contradict_are_refused(written: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        load_tuning(written)


def test_a_twin_may_be_played_by_either_engine() -> None:
    config = load_tuning({"engine": "live", "simulated": {"engine": "simulated"}})
    assert config.engine == "live" and config.twin().engine == "simulated"
    assert from_dict(Task, to_dict(config), "again").twin().engine == "simulated"
