"""YAML files and names become workloads; every typing error is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ewsjf_env.config import ConfigError
from ewsjf_env.workload import load_workload, trace_workload
from ewsjf_env.workload.arrivals import ArrivalLaw
from ewsjf_env.workload.builtin import BUILTIN
from ewsjf_env.workload.replay import LengthsWorkload, TraceWorkload

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "workloads"
CSV = "arrival_s,prompt_tokens,output_tokens\n0,374,44\n4.25,2000,109\n4.5,879,55\n"
SYNTHETIC = """
classes:
  - name: a
    share: 1
    prompt: {kind: constant, tokens: 10}
    output: {kind: constant, tokens: 20}
"""


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_every_builtin_equals_its_yaml_file() -> None:
    for name, workload in BUILTIN.items():
        assert load_workload(CONFIGS / f"{name}.yaml") == workload
        assert load_workload(name) is workload


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_setting_is_commented(path: Path) -> None:
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if not line.strip() or line.strip().startswith("#") or line.rstrip().endswith(":"):
            continue
        # flow mappings in a row share the comment above them or that of their section
        assert "#" in line or "{kind:" in line, f"{path.name}: line {number + 1}: {line}"
        assert len(line) <= 100


def test_the_training_mix_is_none_of_the_judged_ones() -> None:
    training = BUILTIN["training_mix"].classes
    for name, other in BUILTIN.items():
        if name != "training_mix":
            assert not {(c.prompt, c.output) for c in training} & {
                (c.prompt, c.output) for c in other.classes
            }


def test_a_synthetic_file_is_named_after_itself(tmp_path: Path) -> None:
    workload = load_workload(yaml_file(tmp_path, SYNTHETIC))
    assert workload.name == "mine"
    assert workload.draw(0, 60.0).prompt_tokens.tolist()[:2] == [10, 10]


def test_a_trace_beside_the_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    text = "trace: t.csv\nname: mine\nformat: csv\njitter_s: 3.0\nmax_prompt_tokens: 1000\n"
    workload = load_workload(yaml_file(tmp_path, text))
    assert isinstance(workload, TraceWorkload)
    assert (workload.name, workload.jitter_s) == ("mine", 3.0)
    trace = workload.draw(0, 60.0, max_prompt_tokens=4096)
    assert trace.prompt_tokens.max() == 1000


def test_a_trace_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    (tmp_path / "configs").mkdir()
    path = yaml_file(tmp_path / "configs", "trace: t.csv\n")
    monkeypatch.chdir(tmp_path)
    workload = load_workload(path)
    assert workload.name == "t"


def test_lengths_with_drawn_arrivals(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    text = "trace: t.csv\nformat: lengths\nrate_per_s: 3\narrivals: {kind: gamma, cv: 2}\n"
    workload = load_workload(yaml_file(tmp_path, text))
    assert isinstance(workload, LengthsWorkload)
    assert workload.arrivals == ArrivalLaw("gamma", cv=2.0)
    assert workload.draw(0, 100.0).notes["requested_rate_per_s"] == 3.0


BAD_YAML = {
    "unknown key": (SYNTHETIC + "ratte_per_s: 3\n", "'ratte_per_s'; nearest valid name: 'rate_per"),
    "unknown trace key": ("trase: t.csv\n", "unknown key 'trase'; nearest valid name: 'trace'"),
    "key of the other kind": ("trace: t.csv\nphases: []\n", "unknown key 'phases'"),
    "neither": ("rate_per_s: 3\n", "missing key: 'classes' (synthetic traffic) or 'trace'"),
    "no such trace": ("trace: u.csv\n", "u.csv: no such file"),
    "format": ("trace: t.csv\nformat: azur\n", "'azur'; nearest valid name: 'azure'"),
    "jitter": ("trace: t.csv\njitter_s: -1\n", "jitter_s: -1 is outside [0, 3600]"),
    "rate": (SYNTHETIC + "rate_per_s: 0\n", "rate_per_s: 0 is outside (0, inf)"),
    "nan": (SYNTHETIC + "rate_per_s: .nan\n", "rate_per_s: nan is outside"),
    "kind": (SYNTHETIC + "arrivals: {kind: gama}\n", "'gama' is not one of ['poisson', 'gamma']"),
    "arrivals": ("trace: t.csv\narrivals: {kind: poisson}\n", "arrivals: the file has times of it"),
    "lengths jitter": ("trace: t.csv\nformat: lengths\njitter_s: 3\n", "jitter_s: 3.0 has no mean"),
    "length": (SYNTHETIC.replace("tokens: 10", "tokens: 0"), "prompt: tokens: 0 is outside [1, 1e"),
    "share": (SYNTHETIC.replace("share: 1", "share: all"), "share: expected a number, got 'all'"),
    "no mapping": ("- 1\n", "expected a mapping at top level"),
    "no yaml": ("{", "not valid YAML"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_bad_yaml(tmp_path: Path, case: str) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    text, expected = BAD_YAML[case]
    path = yaml_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_workload(path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'paper_mixx' is neither .* name: 'paper_mix'"):
        load_workload("paper_mixx")
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_workload(tmp_path / "none.yaml")
    trace = tmp_path / "t.csv"
    trace.write_text(CSV)
    assert load_workload(trace).name == "t"  # a recording may stand wherever a workload does
    with pytest.raises(ConfigError, match=r"is neither a workload nor a trace file"):
        load_workload(tmp_path)


def test_trace_workload_is_named_after_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    shutil.copy(tmp_path / "t.csv", tmp_path / "other.name.csv")
    assert trace_workload(tmp_path / "other.name.csv").name == "other"
    assert trace_workload(tmp_path / "t.csv", name="x").name == "x"
    with pytest.raises(ConfigError, match="jitter_s: -1 is outside"):
        trace_workload(tmp_path / "t.csv", jitter_s=-1)


def test_a_part_of_a_recording_is_replayed(tmp_path: Path) -> None:
    rows = "\n".join(f"{t},{100 + t},10" for t in range(100))
    (tmp_path / "log.csv").write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}\n")
    lengths = []
    for part in ("[0.0, 0.6]", "[0.6, 1.0]"):
        path = tmp_path / "part.yaml"
        path.write_text(f"trace: log.csv\npart: {part}\n")
        trace = load_workload(path).draw(0, 30.0)
        lengths.append(set(trace.prompt_tokens.tolist()))
    assert max(lengths[0]) < 160 <= min(lengths[1])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("[0.5, 0.5]", r"part\[1\]: 0.5 is outside"),
        ("[-0.1, 0.5]", r"part\[0\]: -0.1 is outside"),
        ("[0.5]", "expected 2 values, got 1"),
        ("[0.001, 0.002]", "holds fewer than 2 requests"),
    ],
)
def test_a_part_must_hold_something(tmp_path: Path, part: str, message: str) -> None:
    rows = "\n".join(f"{t},100,10" for t in range(100))
    (tmp_path / "log.csv").write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}\n")
    (tmp_path / "part.yaml").write_text(f"trace: log.csv\npart: {part}\n")
    with pytest.raises(ConfigError, match=message):
        load_workload(tmp_path / "part.yaml")
