"""Configurations that ship are found by name, from anywhere."""

from pathlib import Path

import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.simulated.machine import Gpu
from ewsjf_env.engine.simulated.preset import engine_name, load_engine, preset_engine, vllm_budget
from ewsjf_env.engine.simulated.vllm_config import load_vllm
from ewsjf_env.env.task import load_tuning
from ewsjf_env.shipped import config_names, configs_folder, find_config
from ewsjf_env.workload import load_workload

ROOT = Path(__file__).parents[1]


def test_a_name_a_path_of_ours_and_a_path_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ROOT / "configs/env/tuning.yaml"
    monkeypatch.chdir(tmp_path)
    assert find_config("tuning", "env") == ours
    assert find_config("configs/env/tuning.yaml", "env") == ours
    assert find_config(ours, "env") == ours
    assert find_config("compare", "") == ROOT / "configs/compare.yaml"
    (tmp_path / "tuning").mkdir()
    assert find_config("tuning", "env") == ours  # a folder is no configuration
    assert find_config("missing.yaml", "env") == Path("missing.yaml")  # its reader says so
    Path("tuning.yaml").touch()
    assert find_config("tuning.yaml", "env") == Path("tuning.yaml")
    with pytest.raises(ConfigError, match=r"--config: 'tunin' is neither .* name: 'tuning'"):
        find_config("tunin", "env", "--config")
    assert "bayes" in config_names("agents")


def test_in_a_wheel_they_lie_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ewsjf_env import shipped

    (tmp_path / "ewsjf_env/configs").mkdir(parents=True)
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "ewsjf_env/shipped.py"))
    assert configs_folder() == tmp_path / "ewsjf_env/configs"


def test_everything_that_names_a_configuration_takes_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_tuning("tuning") == load_tuning(ROOT / "configs/env/tuning.yaml")
    assert load_workload("long_outputs").name == "long_outputs"
    assert load_engine("machine") == load_engine("compiled") == SimulatedConfig()
    assert load_engine("simulated") == SimulatedConfig(engine="simulated")
    assert load_engine("h200").latency == "configs/latency/qwen2.5-7b_h200.json"
    assert LatencyModel.load(load_engine("h200").latency).machine.name


def test_a_trace_is_a_workload(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("arrival_s,prompt_tokens,output_tokens\n0,10,2\n1,20,2\n2,30,2\n")
    assert load_workload(log).name == "log"
    assert load_tuning({"workload": str(log)}).workload == str(log)
    log.write_text("arrival_s,prompt_tokens,output_tokens\n0,0,2\n1,20,2\n")
    with pytest.raises(ConfigError, match=r"log\.csv.*prompt_tokens"):
        load_workload(log)
    with pytest.raises(ConfigError, match=r"'lgo\.csv' is neither a workload nor a trace file"):
        load_workload("lgo.csv")


@pytest.mark.parametrize(
    ("gpu", "memory_bytes", "expected"),
    [
        ("NVIDIA A100 80GB SXM", 85e9, (2048, 256)),
        ("NVIDIA H100 80GB HBM3", 85e9, (8192, 1024)),
        ("NVIDIA H200", 150e9, (8192, 1024)),
        ("NVIDIA B200", 192e9, (16384, 1024)),
        ("NVIDIA L4", 24e9, (2048, 256)),
    ],
)
def test_the_budget_is_the_one_of_vllm(
    gpu: str, memory_bytes: float, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against `EngineArgs` of the vLLM that is installed."""
    load_vllm()  # on the simulated platform, which vLLM takes once a process
    from vllm.engine import arg_utils
    from vllm.usage.usage_lib import UsageContext

    class Platform:
        def get_device_total_memory(self) -> int:
            return int(memory_bytes)

        def get_device_name(self) -> str:
            return gpu

        def is_tpu(self) -> bool:
            return False

        is_cpu = is_tpu

    monkeypatch.setattr(arg_utils, "current_platform", Platform())
    tokens, requests = arg_utils.EngineArgs.get_batch_defaults(world_size=1)
    context = UsageContext.OPENAI_API_SERVER
    assert vllm_budget(Gpu(gpu, 1e12, 1e14, memory_bytes)) == expected
    assert (tokens[context], requests[context]) == expected


def test_a_preset_is_an_engine() -> None:
    engine = load_engine("llama3-8b_h100")
    assert engine == preset_engine("llama3-8b_h100")
    assert (engine.max_num_batched_tokens, engine.max_num_seqs) == (8192, 1024)
    assert engine_name(engine) == "compiled llama3-8b_h100, steps of 8192 tokens and 1024 requests"
    assert load_engine("llama2-13b_a100-80g") == SimulatedConfig()
    with pytest.raises(ConfigError, match=r"--engine: 'llama3-8b_h10' is .*'llama3-8b_h100'"):
        load_engine("llama3-8b_h10", "--engine")
