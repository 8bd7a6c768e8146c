"""Bad input is one line, and the exit code tells what happened."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agents.command_line import Parser, number, run_command, say, whole
from ewsjf_env.config import ConfigError
from ewsjf_env.engine.base import EngineError


def parser() -> Parser:
    made = Parser("tool.py", "tool.py FILE [options]", "Does it.", "examples: none")
    made.add_argument("file")
    made.add_argument("--seeds", type=whole)
    made.add_argument("--load", type=number)
    return made


def test_arguments() -> None:
    found = parser().arguments(["a.csv", "--seeds", "3", "--load", "0.5"])
    assert (found.file, found.seeds, found.load) == ("a.csv", 3, 0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--seed", "3"], "unknown argument '--seed'; nearest valid name: '--seeds'"),
        (["a", "--sedes=3"], "unknown argument '--sedes=3'; nearest valid name: '--seeds'"),
        (["a", "--seeds", "3.5"], "--seeds: '3.5' is not a whole number"),
        (["a", "--load", "much"], "--load: 'much' is not a number"),
        (["a", "--load"], "--load: expected one argument"),
        ([], "the following arguments are required: file"),
    ],
)
def test_bad_arguments(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parser().arguments(words)
    assert str(error.value) == message


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("rate: 0 is\n  outside (0, inf)"), 2, "error: rate: 0 is outside (0, inf)"),
        (EngineError("died"), 1, "error: died"),
        (OSError(28, "No space left", "a.json"), 1, "error: a.json: No space left"),
        (OSError("short write"), 1, "error: file: short write"),
        (KeyboardInterrupt(), 130, "interrupted: go on with it"),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert run_command(raising(error), "go on with it") == code
    assert capsys.readouterr().err == line + "\n"


def test_what_a_command_returns_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: 3, "") == 3
    assert run_command(lambda: say(3, "refused:\nno"), "") == 3
    assert capsys.readouterr().err == "refused: no\n"


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0, "")
