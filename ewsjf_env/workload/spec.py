"""Workloads by name: a YAML file, a built-in name or a trace file.

A YAML file describes either synthetic traffic (`classes`, see `SyntheticWorkload`) or the
replay of a trace (`trace`, see `ReplaySpec`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from ewsjf_env.config import (
    Among,
    ConfigError,
    Count,
    Positive,
    Range,
    Share,
    check_range,
    from_dict,
    load_yaml,
    nearest,
    refuse_unknown,
    settings,
)
from ewsjf_env.shipped import config_names, configs_folder, find_config
from ewsjf_env.workload.arrivals import ArrivalLaw
from ewsjf_env.workload.builtin import BUILTIN
from ewsjf_env.workload.readers import FORMATS, read_trace_file
from ewsjf_env.workload.replay import MAX_JITTER_S, LengthsWorkload, TraceWorkload
from ewsjf_env.workload.source import MissingTrace
from ewsjf_env.workload.synthetic import SyntheticWorkload
from ewsjf_env.workload.trace import Workload

YAML_SUFFIXES = (".yaml", ".yml")
RECORDINGS = "docs/recordings.md tells where recordings come from, none ships"


@settings
class ReplaySpec:
    """The replay of a trace file."""

    trace: str
    """Path, relative to the YAML file or else to the working directory."""
    name: str = ""
    """What it is called in results; empty takes the file's name."""
    format: Annotated[str, Among("format", lambda: FORMATS)] | None = None
    """Format of the file; null: recognised by its content."""
    rate_per_s: Positive | None = None
    """Mean arrivals a second when a draw names none; null: the recording's own."""
    jitter_s: Annotated[float, Range(0.0, MAX_JITTER_S)] = 0.0
    """Uniform noise in [0, jitter_s) on recorded times, seconds; 3 for Mooncake."""
    arrivals: ArrivalLaw | None = None
    """Law for files without times (Poisson when null); others refuse it."""
    max_prompt_tokens: Count | None = None
    """Longer prompts are capped; null: none."""
    part: tuple[Share, Share] = (0.0, 1.0)
    """Start and end of what is replayed, as fractions of the recording: what a policy is
    tuned on and what it is judged on can so be kept apart.
    """
    description: str = ""
    """One sentence for people."""

    def __post_init__(self) -> None:
        check_range("part[1]", self.part[1], self.part[0], 1.0, low_open=True)


def load_workload(path_or_name: str | Path) -> Workload:
    """Make the workload of a built-in name (`BUILTIN`), a YAML file or a trace file.

    A file of ours is found by its name, too (`azure_code_first`).  A trace file is replayed as it
    was recorded unless a draw names a rate; a YAML file with `trace` says more.

    Raises:
        ConfigError: no such file or name, an unknown key or a value out of range; or what the
            trace file named in it is wrong about (`MissingTrace`: that it is not there).
    """
    path = Path(path_or_name)
    text = str(path_or_name)
    if text in BUILTIN:
        return BUILTIN[text]
    if text in config_names("workloads") or path.suffix in YAML_SUFFIXES:
        path = find_config(path, "workloads", "workload")
    elif _is_there(path) and not path.is_dir():
        return trace_workload(path)
    else:
        known = dict.fromkeys([*BUILTIN, *config_names("workloads")])
        raise ConfigError(
            f"workload: {text!r} is neither a workload nor a trace file nor a built-in workload"
            f"{nearest(text, known)}"
        )
    data = load_yaml(path)
    fields = {f.name for c in (ReplaySpec, SyntheticWorkload) for f in dataclasses.fields(c)}
    refuse_unknown(data, fields, str(path))
    if "trace" not in data and "classes" not in data:
        raise ConfigError(
            f"{path}: missing key: 'classes' (synthetic traffic) or 'trace' (a trace file)"
        )
    if "trace" not in data:
        return from_dict(SyntheticWorkload, {"name": path.stem, **data}, str(path))
    spec = from_dict(ReplaySpec, data, str(path))
    beside = path.parent / spec.trace
    try:
        return replay_workload(spec, beside if beside.exists() else Path(spec.trace))
    except MissingTrace as error:
        ours = path.resolve().is_relative_to(configs_folder())
        raise MissingTrace(
            f"{path}: trace: {error}; looked for beside this file and in the working directory"
            + (f"; {RECORDINGS}" if ours else "")
        ) from None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, for example
        raise ConfigError(f"workload: {str(path)[:80]!r}: {error.strerror}") from None


def trace_workload(
    path: str | Path,
    file_format: str | None = None,
    *,
    name: str = "",
    rate_per_s: float | None = None,
    jitter_s: float = 0.0,
    arrivals: ArrivalLaw | None = None,
    max_prompt_tokens: int | None = None,
) -> TraceWorkload | LengthsWorkload:
    """Make the workload that replays a trace file; see `ReplaySpec` for the arguments.

    Raises:
        ConfigError: an argument out of range, or naming what is wrong in the file and where.
    """
    spec = ReplaySpec(
        trace=str(path),
        name=name,
        format=file_format,
        rate_per_s=rate_per_s,
        jitter_s=jitter_s,
        arrivals=arrivals,
        max_prompt_tokens=max_prompt_tokens,
    )
    return replay_workload(spec, Path(path))


def replay_workload(spec: ReplaySpec, path: Path) -> TraceWorkload | LengthsWorkload:
    """Read the file and make the workload that its columns allow."""
    table = read_trace_file(path, spec.format)
    if spec.part != (0.0, 1.0):
        table = table.part(*spec.part)
    name = spec.name or path.name.split(".")[0]
    if table.arrival_s is None:
        if spec.jitter_s:
            raise ConfigError(
                f"{path}: jitter_s: {spec.jitter_s!r} has no meaning for a file without times"
            )
        return LengthsWorkload(
            name=name,
            table=table,
            rate_per_s=spec.rate_per_s,
            arrivals=spec.arrivals or ArrivalLaw(),
            max_prompt_tokens=spec.max_prompt_tokens,
            description=spec.description,
        )
    if spec.arrivals is not None:
        raise ConfigError(
            f"{path}: arrivals: the file has times of its own; with format: lengths they are drawn"
        )
    return TraceWorkload(
        name=name,
        table=table,
        rate_per_s=spec.rate_per_s,
        jitter_s=spec.jitter_s,
        max_prompt_tokens=spec.max_prompt_tokens,
        description=spec.description,
    )
