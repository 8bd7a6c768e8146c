"""The command `ewsjf schema`: JSON Schema of each kind of file, for editors and the docs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agents.cli._command import Parser, folder, made_folder, run_command
from agents.core.files import write_text
from agents.core.registry import AGENTS
from agents.experiments.policy_study.config import PolicyStudyConfig
from agents.experiments.tuners.config import ComparisonConfig
from agents.runs.config import RunConfig
from ewsjf_env.config import ConfigError, nearest
from ewsjf_env.config.schema import DIALECT, json_schema
from ewsjf_env.engine.simulated.config import SimulatedConfig
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.env.task import Task
from ewsjf_env.policy.policy import KINDS as KINDS_OF_POLICY
from ewsjf_env.policy.policy import SCHEMA_VERSION
from ewsjf_env.scheduling.orders.registry import ORDERS
from ewsjf_env.workload.spec import ReplaySpec
from ewsjf_env.workload.synthetic import SyntheticWorkload

Schema = dict[str, Any]
DESCRIPTION = """\
Print the JSON Schema of a kind of file, or write those of all kinds to a
folder.  An editor that knows it completes keys and marks what is wrong, when
a YAML file begins with `# yaml-language-server: $schema=FILE`."""


def _workload() -> Schema:
    """Synthetic traffic, or the replay of a trace."""
    kinds = [
        json_schema(SyntheticWorkload, "Synthetic traffic"),
        json_schema(ReplaySpec, "Replay of a trace"),
    ]
    # A file without a name has that of its own.
    kinds[0]["required"].remove("name")
    parts: Schema = {}
    for kind in kinds:
        parts |= kind.pop("$defs", {})
    dialects = [kind.pop("$schema") for kind in kinds]
    return {"$schema": dialects[0], "$defs": parts, "title": "Workload", "oneOf": kinds}


def _run() -> Schema:
    """The `config.yaml` of a run: the agent's settings stand beside its name."""
    schema = json_schema(RunConfig, "Tuning run")
    properties = schema["properties"]
    told = properties.pop("settings")["description"]
    name = properties["agent"]
    properties["agent"] = {
        "type": "object",
        "description": f"{told} See the schema of the agent.",
        "properties": {"name": name},
        "required": ["name"],
    }
    for mark, text in {
        "schema_version": "Version of this kind of file.",
        "environment": "Registered id of the environment.",
        "parameter_space_hash": "Hash of the parameters that are tuned.",
    }.items():
        properties[mark] = {"description": text}
    schema["required"] = ["agent", "env", "schema_version"]
    return schema


def _policy() -> Schema:
    """A policy file; which parameters there are, and in which range, is a matter of the order."""
    described: Schema = {
        "schema_version": {"const": SCHEMA_VERSION, "description": "Version of the format."},
        "kind": {
            "enum": list(KINDS_OF_POLICY),
            "description": "How parameters follow the traffic.",
        },
        "name": {"type": "string", "minLength": 1, "description": "Label in comparisons."},
        "order": {"enum": list(ORDERS), "description": "Order of the queue."},
        "parameter_space_hash": {"type": "string", "description": "Hash of the order's space."},
        "parameters": {"type": "object", "description": "Values; the others are at their default."},
        "partition": {"type": ["object", "null"], "description": "Queues to start with."},
        "adaptive": {"type": ["object", "null"], "description": "How parameters are changed."},
        "provenance": {"type": "object", "description": "Where the values come from."},
    }
    return {
        "$schema": DIALECT,
        "title": "Policy",
        "type": "object",
        "properties": described,
        "required": ["order"],
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"order": {"const": order}}},
                "then": {"properties": {"parameters": _parameters(order)}},
            }
            for order in ORDERS
        ],
    }


def _parameters(order: str) -> Schema:
    """Parameters of an order with their ranges."""
    found = {}
    for p in ORDERS[order].space.parameters:
        number = {"type": "integer" if p.scale == "integer" else "number"}
        limits = {"minimum": p.low, "maximum": p.high}
        values = {"enum": list(p.choices)} if p.scale == "choice" else number | limits
        unit = f", {p.unit}" if p.unit else ""
        told = {"default": p.default, "description": f"{p.description}{unit}"}
        found[p.name] = values | told
    return {
        "properties": found,
        "additionalProperties": False,
        "description": f"Parameters of the order {order}.",
    }


KINDS: dict[str, Callable[[], Schema]] = {
    "task": lambda: json_schema(Task, "Tuning task"),
    "engine": lambda: json_schema(SimulatedConfig, "Simulated engine"),
    "latency": lambda: json_schema(LatencyModel, "Latency model of a machine"),
    "workload": _workload,
    "comparison": lambda: json_schema(ComparisonConfig, "Comparison of tuners"),
    "policy-study": lambda: json_schema(PolicyStudyConfig, "Study of policies"),
    "run": _run,
    "policy": _policy,
    **{
        f"agent-{name}": lambda entry=entry, name=name: json_schema(  # type: ignore[misc]
            entry.settings_class, f"Settings of the agent {name}"
        )
        for name, entry in AGENTS.items()
    },
}
"""Each kind of file."""


def make_parser() -> Parser:
    """The command line."""
    kinds = "kinds of files:\n" + "\n".join(f"  {kind}" for kind in KINDS)
    parser = Parser("ewsjf schema", "ewsjf schema (KIND | --out DIR)", DESCRIPTION, kinds)
    parser.add_argument("kind", nargs="?", metavar="KIND", help="see below")
    parser.add_argument("--out", metavar="DIR", help="write KIND.schema.json of every kind here")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write schemas; exit code 0, 2 for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _schema(words), "not all schemas are written")


def _schema(words: list[str]) -> int:
    arguments = make_parser().arguments(words)
    kind: str | None = arguments.kind
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"KIND: unknown {kind!r}{nearest(kind, KINDS)}")
    if (kind is None) == (arguments.out is None):
        raise ConfigError(f"KIND, --out: give one of them{nearest('', KINDS)}")
    if kind is not None:
        print(_text(kind))
        return 0
    out = folder("--out", arguments.out)
    made_folder("--out", out)
    for name in KINDS:
        path: Path = out / f"{name}.schema.json"
        write_text(path, _text(name) + "\n")
        print(path)
    return 0


def _text(kind: str) -> str:
    return json.dumps(KINDS[kind](), indent=1)


if __name__ == "__main__":
    sys.exit(main())
