"""The command `ewsjf`: one entry point, a screen of help for all and for each."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.cli._command import own_command
from agents.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[3]
SCREEN = 40  # lines


def source(module: str) -> str:
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    return Path(found.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_is_one_screen(name: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "screenshots":
        pytest.importorskip("PIL")
    with pytest.raises(SystemExit) as end:
        sys.exit(main([*([] if name is None else [name]), "--help"]))
    assert not end.value.code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: ewsjf {'COMMAND' if name is None else name}")
    assert name is not None or all(any(f"  {n} " in line for line in lines) for n in COMMANDS)


def test_every_module_of_a_command_is_in_the_table() -> None:
    folder = ROOT / "agents"
    paths = [path.relative_to(folder) for path in folder.glob("cli/**/[a-z]*.py")]
    modules = {"agents." + ".".join(path.with_suffix("").parts) for path in paths}
    assert {module for module, _ in COMMANDS.values()} == modules - {"agents.cli.main"}
    for module, _ in COMMANDS.values():
        text = source(module)
        assert "\ndef main(" in text
        assert text.endswith('\n\nif __name__ == "__main__":\n    sys.exit(main())\n')


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda p: p.stem)
def test_a_script_is_four_lines_that_start_a_command(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert ast.literal_eval(call.args[0]) in {module for module, _ in COMMANDS.values()}


@pytest.mark.parametrize("module", ["agents.cli", "agents.cli.main", "agents.cli.fit_latency"])
def test_a_command_is_a_module(module: str) -> None:
    words = [] if module.endswith("fit_latency") else ["fit-latency"]
    done = subprocess.run(
        [sys.executable, "-m", module, *words, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("usage: ewsjf fit-latency ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "error: unknown command 'trian'; nearest valid name: 'train'\n"),
        (["train", "--widnows", "3"], "error: unknown option '--widnows'; nearest valid name: "),
        (["train", "--budget", "3"], "error: unknown option '--budget'; ewsjf train --help tells"),
        (["serve", "--polcy", "x"], "error: unknown option '--polcy'; nearest valid name: "),
    ],
)
def test_what_is_unknown_is_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1


def test_our_own_commands_are_named_as_they_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.venv/bin/python` is not there with EWSJF_VENV."""
    binaries = tmp_path / "elsewhere" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").touch()
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert own_command("train", "-x") == "elsewhere/bin/python -m agents.cli train -x"
    (binaries / "ewsjf").write_text("#!/bin/sh\n")
    assert own_command("train", "a b") == "elsewhere/bin/ewsjf train 'a b'"
    (binaries / "ewsjf").chmod(0o755)
    monkeypatch.setenv("PATH", str(binaries))
    assert own_command("train") == "ewsjf train"
