"""The command `ewsjf`: a table of sub-commands, each loaded when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from agents.cli._start import run
from ewsjf_env import __version__
from ewsjf_env.config import nearest

BAD_INPUT = 2

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("agents.cli.train", "tune the scheduler window by window; resume a run"),
    "export": ("agents.cli.export", "write what a run recommends, if it is better for sure"),
    "serve": ("agents.cli.serve", "start `vllm serve` under a policy, with a tuner if asked"),
    "evaluate": ("agents.cli.evaluate", "compare policies on your traffic, simulated"),
    "compare": ("agents.cli.compare", "compare tuners, ours and your own"),
    "schema": ("agents.cli.schema", "print the JSON Schema of a kind of file, for editors"),
    "check-fidelity": (
        "agents.cli.check_fidelity",
        "hold the compiled engine against vLLM's scheduler",
    ),
    "check-env": ("agents.cli.check_env", "check the Gymnasium environment of a task"),
    "gpu-run": ("agents.cli.gpu_run", "measure a machine with a GPU, once"),
    "fit-latency": ("agents.cli.fit_latency", "fit a latency model to measured steps"),
    "soak": ("agents.cli.soak", "load a server for long and watch its health"),
    "tuner-cost": ("agents.cli.tuner_cost", "measure what a tuner takes of a running server"),
    "benchmark": ("agents.cli.project.benchmark", "CPU time of our scheduler and of vLLM's"),
    "simulators": (
        "agents.cli.project.simulators",
        "the compiled engine beside NVIDIA's AISimulate",
    ),
    "policy-study": ("agents.cli.policy_study", "tune and judge every policy on many traffics"),
    "fidelity-grid": ("agents.cli.project.fidelity_grid", "both engines over a whole grid"),
    "work-study": ("agents.cli.project.work_study", "what hints, or fair shares of tenants, gain"),
    "fit-default-policy": ("agents.cli.project.fit_default_policy", "fit the policy that ships"),
    "collect-results": ("agents.cli.project.collect_results", "copy a study's reports to the docs"),
    "screenshots": ("agents.cli.project.screenshots", "take the pictures of the docs"),
}


def usage() -> str:
    """All commands on one screen."""
    lines = [f"  {name:<19} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ewsjf COMMAND [options]",
            "",
            "EWSJF tuning for vLLM: schedule requests better, and find out how.",
            "",
            "commands:",
            *lines,
            "",
            "ewsjf COMMAND --help tells the options, ewsjf --version the version.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; its exit code, or 2 where there is none of that name."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else BAD_INPUT
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}{nearest(name, COMMANDS)}", file=sys.stderr)
        return BAD_INPUT
    return run(COMMANDS[name][0], words[1:])


if __name__ == "__main__":
    sys.exit(main())
