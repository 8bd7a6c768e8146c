"""JSON Schemas: every shipped file is valid, every property is described, and errors are found."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agents.cli.schema import KINDS, main
from agents.runs.config import make_run_config
from ewsjf_env.config import load_yaml
from ewsjf_env.engine.simulated.machine import PRESET_DIRECTORY
from ewsjf_env.policy.policy import DEFAULT_PATH

CONFIGS = Path(__file__).parents[3] / "configs"


def shipped() -> Iterator[tuple[Path, str]]:
    """Each file with the kind that it is."""
    for path in sorted(CONFIGS.rglob("*.yaml")):
        kinds = {"workloads": "workload", "agents": f"agent-{path.stem}"}
        kinds["env"] = "engine" if "latency" in load_yaml(path) else "task"
        own = {"policy_study": "policy-study"}.get(path.stem, "comparison")
        yield path, kinds.get(path.parent.name, own)
    for path in sorted(PRESET_DIRECTORY.glob("*.json")):
        yield path, "latency"

    yield DEFAULT_PATH, "policy"


FILES = list(shipped())


@pytest.mark.parametrize(("path", "kind"), FILES, ids=[path.name for path, _ in FILES])
def test_a_shipped_file_is_valid(path: Path, kind: str) -> None:
    data = json.loads(path.read_text()) if path.suffix == ".json" else load_yaml(path)
    jsonschema.Draft202012Validator(KINDS[kind]()).validate(data)


def properties(schema: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every property of a schema and of its parts."""
    if isinstance(schema, dict):
        own = schema.get("properties", {})
        yield from ((f"{where}/{name}", found) for name, found in own.items())
        for key, part in schema.items():
            yield from properties(part, f"{where}/{key}")
    elif isinstance(schema, list):
        for part in schema:
            yield from properties(part, where)


@pytest.mark.parametrize("kind", KINDS)
def test_every_property_is_described(kind: str) -> None:
    schema = KINDS[kind]()
    jsonschema.Draft202012Validator.check_schema(schema)
    found = {name: part for name, part in properties(schema) if "/if/" not in name}
    assert not [name for name, part in found.items() if len(part.get("description", "")) < 5]
    assert kind == "agent-default" or found


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("task", {"window_s": 0}, "0 is less than the minimum of 0.1"),
        ("task", {"windos": 3}, "'windos' was unexpected"),
        ("task", {"fake": {"active": 0}}, "0 is less than the minimum of 1"),
        ("task", {"engine": "real"}, "'real' is not one of"),
        ("agent-bayes", {"search": {"radius": 2}}, "2 is greater than the maximum of 1"),
        ("agent-bayes", {"search": {"radius": 0}}, "0 is less than or equal to the minimum of 0"),
        ("engine", {"scheduler": "fcfs"}, "'fcfs' is not one of"),
        ("policy", {"order": "fcsf"}, "'fcsf' is not one of"),
        ("policy", {"order": "hrrn", "parameters": {"exponent": 9}}, "greater than the maximum"),
        ("policy", {"order": "hrrn", "parameters": {"exponnt": 1}}, "'exponnt' was unexpected"),
        ("task", {"objective": {"kind": "J"}}, "'J' is not one of"),
    ],
)
def test_what_is_wrong_is_found(kind: str, data: Any, message: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.Draft202012Validator(KINDS[kind]()).validate(data)


def test_the_configuration_of_a_run_is_valid() -> None:
    written = make_run_config("bayes", {"engine": "fake"}).to_dict()
    jsonschema.Draft202012Validator(KINDS["run"]()).validate(json.loads(json.dumps(written)))


def test_the_command_prints_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["title"] == "Tuning task"
    assert main(["--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"{kind}.schema.json" for kind in KINDS}
    assert json.loads((tmp_path / "task.schema.json").read_text()) == printed
    capsys.readouterr()
    for words, message in (
        (["tsk"], "KIND: unknown 'tsk'; nearest valid name: 'task'"),
        ([], "KIND, --out: give one of them"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
