"""Dependencies point one way, and importing the package stays cheap.

scripts -> agents: cli -> machine -> operations -> experiments -> runs -> rl -> twin ->
{bayes, baselines, theory} -> analysis -> core -> ewsjf_env: env -> engine -> serving -> policy ->
scheduling -> measure -> parameters -> config.
"""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for folder in ("ewsjf_env", "agents", "scripts") for path in (ROOT / folder).rglob("*.py")
)

MOST_MODULES = 16

# The rule of agents: a package imports those of lower floors, and its own.
AGENT_FLOORS: dict[str, int] = {
    "cli": 10,
    "machine": 9,
    "operations": 8,
    "experiments": 7,
    "runs": 6,
    "rl": 5,
    "twin": 4,
    "bayes": 3,
    "baselines": 3,
    "theory": 3,
    "analysis": 2,
    "core": 1,
}

# What each part of ewsjf_env may import of the others.  "ewsjf_env" is the package's own __init__.
BELOW_SCHEDULING = {"config", "parameters", "measure", "strict_json"}
BELOW_SERVING = BELOW_SCHEDULING | {"scheduling", "policy"}
BELOW_ENGINE = BELOW_SERVING | {"serving", "workload", "shipped"}
MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "seeds": set(),
    "shipped": {"config"},
    "parameters": {"config"},
    "strict_json": {"config"},
    "workload": {"config", "shipped"},
    "measure": {"config", "parameters"},
    "scheduling": BELOW_SCHEDULING,
    "policy": BELOW_SCHEDULING | {"scheduling"},
    "serving": BELOW_SERVING,
    "engine": BELOW_ENGINE,
    "env": BELOW_ENGINE | {"engine", "seeds"},
    "ewsjf_env": {"env", "policy", "workload"},  # public names, loaded when asked for
}

# Third-party modules by part; all others get LIGHT.
LIGHT = {"numpy", "yaml"}
THIRD_PARTY = {
    "config": {"yaml", "pydantic", "pydantic_core"},
    "engine": LIGHT | {"vllm", "torch", "tokenizers", "aiohttp", "numba"},
    "serving": LIGHT | {"vllm", "torch", "fastapi", "starlette", "prometheus_client"},
    "env": LIGHT | {"gymnasium", "pydantic", "pydantic_core"},
    "scheduling": {"numpy"},
}


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever it stands, with its full name."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            for alias in node.names:  # `from ewsjf_env import policy` names a module, too
                inner = f"{module}.{alias.name}"
                yield inner if is_module(inner) else module


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def part_of(module: str) -> str:
    """`ewsjf_env.engine.simulated.latency` -> `engine`; `ewsjf_env.__version__` -> `ewsjf_env`."""
    part = module.split(".")[1] if "." in module else "ewsjf_env"
    return part if part in MAY_IMPORT else "ewsjf_env"


def part_of_file(path: Path) -> str:
    inner = path.relative_to(ROOT / "ewsjf_env").with_suffix("").parts[0]
    return "ewsjf_env" if inner == "__init__" else inner


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


ENV_FILES = [path for path in FILES if path.is_relative_to(ROOT / "ewsjf_env")]


def test_modules_import_each_other_in_one_direction() -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    graph = {
        module: {name for name in imported_modules(path) if name in files and name != module}
        for module, path in files.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize("path", ENV_FILES, ids=named)
def test_ewsjf_env_imports_only_what_lies_below(path: Path) -> None:
    part = part_of_file(path)
    assert part in MAY_IMPORT, f"say in MAY_IMPORT what the new part {part} may import"
    modules = list(imported_modules(path))
    assert not [m for m in modules if m.split(".")[0] in ("agents", "scripts", "tests")]
    ours = {part_of(m) for m in modules if m.split(".")[0] == "ewsjf_env"}
    assert ours - {part} <= MAY_IMPORT[part]


@pytest.mark.parametrize("path", ENV_FILES, ids=named)
def test_ewsjf_env_uses_few_libraries(path: Path) -> None:
    tops = {module.split(".")[0] for module in imported_modules(path)}
    foreign = tops - sys.stdlib_module_names - {"ewsjf_env"}
    assert foreign <= THIRD_PARTY.get(part_of_file(path), LIGHT)


AGENT_FILES = [path for path in FILES if path.is_relative_to(ROOT / "agents")]


def package_of(module: str) -> str:
    """`agents.bayes.gp` -> `bayes`."""
    return module.split(".")[1] if "." in module else "agents"


@pytest.mark.parametrize("path", AGENT_FILES, ids=named)
def test_agents_import_only_what_lies_below(path: Path) -> None:
    own = path.relative_to(ROOT / "agents").with_suffix("").parts[0]
    if own == "__init__":
        return  # the public names are loaded when asked for
    found = {package_of(m) for m in imported_modules(path) if m.split(".")[0] == "agents"} - {own}
    assert not [name for name in found if AGENT_FLOORS[name] >= AGENT_FLOORS[own]]


def test_folders_are_small() -> None:
    """A newcomer takes in a folder at one look."""
    counts = Counter(path.parent for path in FILES if path.name != "__init__.py")
    del counts[ROOT / "agents" / "cli"]  # a list of commands, one file each
    del counts[ROOT / "scripts"]
    crowded = {named(folder): n for folder, n in counts.items() if n > MOST_MODULES}
    assert crowded == {}


@pytest.mark.parametrize("path", AGENT_FILES, ids=named)
def test_agents_import_no_scripts_and_no_vllm(path: Path) -> None:
    tops = {module.split(".")[0] for module in imported_modules(path)}
    assert not tops & {"scripts", "tests", "vllm"}


@pytest.mark.parametrize("module", ["ewsjf_env", "ewsjf_env.policy.policy", "ewsjf_env.scheduling"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "vllm", "optuna", "stable_baselines3", "scipy", "matplotlib", "agents")
    code = f"import sys, {module}; print(*(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_serving_does_not_need_gymnasium() -> None:
    """Where it is not installed, importing registers nothing and policies still load."""
    code = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'gymnasium' else find(name, *more)\n"
        "from ewsjf_env.policy.policy import default_policy\n"
        "print(default_policy().order, 'gymnasium' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["ewsjf", "False"]


def test_imported_modules_sees_relative_and_nested_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    folder = tmp_path / "ewsjf_env" / "engine"
    folder.mkdir(parents=True)
    (folder / "base.py").touch()
    path = folder / "made_up.py"
    path.write_text(
        "from . import base\nfrom ..policy import Policy\n"
        "from ewsjf_env import __version__, engine\ndef f():\n    import vllm.config\n",
        encoding="utf-8",
    )
    assert list(imported_modules(path)) == [
        "ewsjf_env.engine.base",
        "ewsjf_env.policy",
        "ewsjf_env",
        "ewsjf_env.engine",
        "vllm.config",
    ]
