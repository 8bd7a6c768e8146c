"""The report of an evaluation, evaluation.md: tables that show the losers, too."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.analysis.tables import (
    ENOUGH_SEEDS,
    WORSE,
    best,
    bold,
    doubts,
    interval,
    number,
    supports_claims,
    table,
    text_table,
    token_range,
)
from agents.core.words import counted
from agents.experiments.objectives import REFERENCE
from agents.experiments.policies.summary import Group, Run, against, groups, values
from ewsjf_env.measure.records import MetricSettings, WindowMetrics

WORSE_SHARE = 0.01  # a smaller relative difference is not marked, however sure it is

NEAR_CAPACITY = (0.9, 1.05)  # loads from and to which a title says "near capacity"

SCHEDULES = {
    "compiled": "compiled engine, which schedules every request as the scheduler of vLLM",
    "simulated": "simulated engine: own scheduler and KV cache of vLLM",
}
"""What an engine is, before the version of vLLM."""


@dataclass(frozen=True)
class Column:
    """One column of the main table."""

    title: str
    metric: str
    part: str = "metrics"
    larger_is_better: bool = False
    digits: int = 2

    @property
    def form(self) -> str:
        """Format of its values."""
        return f".{self.digits}f"


_SHOWN = tuple(
    Column(how["column"], field.name, "metrics", how["larger_is_better"], how["digits"])
    for field in dataclasses.fields(WindowMetrics)
    if (how := field.metadata).get("column")
)
_DRAINED = Column("drained tok/s", "output_tokens_per_s", "drained", True, 0)
COLUMNS = (_SHOWN[0], _DRAINED, *_SHOWN[1:])
"""Those that `WindowMetrics` names, and the throughput of the same requests all served."""

RATIO_COLUMNS = tuple(
    c
    for c in COLUMNS
    if c.metric
    in (
        "output_tokens_per_s",
        "ttft_mean_s",
        "ttft_p99_s",
        "ttft_short_mean_s",
        "ttft_long_p95_s",
        "wait_max_s",
    )
)

_SETTINGS = MetricSettings()
LEGEND = (
    "out tok/s: output tokens generated in the window, a second; drained: over the time in which "
    "the same requests are all served.",
    "goodput: finished requests a second whose TTFT was at most "
    f"{_SETTINGS.ttft_slo_s:g} s and whose time per further output token at most "
    f"{_SETTINGS.tpot_slo_s:g} s.",
    "TTFT: time from arrival to first token; p95 and p99 are percentiles over requests.",
    f"short: prompts of at most {_SETTINGS.short_max_tokens} tokens; long: of more than "
    f"{_SETTINGS.long_min_tokens}.",
    "max wait: the longest TTFT of any request.",
    "TPOT: time per output token after the first, of finished requests.",
    "slowdown: TTFT over the time that the prompt's prefill takes alone on the machine.",
    "Jain: Jain's fairness index of the mean slowdowns of short, middle and long prompts: 1 when "
    "all are slowed alike, towards 1/3 when one class alone is.",
    "unfinished: requests that arrived in the window and had not finished by its end.",
)


def markdown(runs: Sequence[Run], meta: Mapping[str, Any], other: str | None = None) -> str:
    """The whole report.

    Args:
        runs: records of all runs.
        meta: of the evaluation.
        other: a policy that the others are compared with besides `REFERENCE`.
    """
    lines = [
        "# Evaluation",
        "",
        f"Fixed window of {meta['duration_s']:g} s from an empty start, "
        f"{counted(meta['seeds'], 'seed')}; every policy meets the same arrivals, lengths and "
        "prefixes.  Requests that are not served by the end count with their age.  *Drained*: the "
        "same requests served to the end.  Load is the arrival rate over the measured FCFS "
        "capacity.",
        "",
        f"Engine: {meta['engine']['latency']}, {meta['engine']['max_num_batched_tokens']} tokens "
        f"a step, {meta['engine']['max_num_seqs']} sequences, "
        f"{meta['kv_blocks']} KV blocks of {meta['engine']['block_tokens']} tokens, prefix caching "
        f"{'on' if meta['engine']['prefix_caching'] else 'off'}, async scheduling "
        f"{'on' if meta['engine']['async_scheduling'] else 'off'}; "
        f"{SCHEDULES[meta['engine']['engine']]} {meta['versions']['vllm']} on a "
        "virtual clock, the forward pass modelled.",
        "",
        f"**Bold** is the one best non-oracle value of a column (none where two or more share it "
        f"at the digits shown); {WORSE} marks a value that is worse "
        f"than fcfs by {WORSE_SHARE:.0%} or more and with its whole 95 % interval (paired "
        f"bootstrap over seeds; {ENOUGH_SEEDS} seeds or more, none from a recording that was "
        "repeated); (oracle) reads true output lengths.",
        *doubts(meta["seeds"], _repeats(runs)),
    ]
    lines += ["", "Rates and loads:", "", *table(_traffic_rows(runs, meta))]
    for group, arms in groups(runs).items():
        lines += ["", f"## {_title(group, arms)}", "", *table(_main_rows(arms))]
        if REFERENCE in arms and len(arms) > 1:
            lines += ["", "Ratio to fcfs, 95 % interval:", "", *_ratio_table(arms, REFERENCE)]
        if other is not None and other in arms and other != REFERENCE:
            lines += ["", f"Ratio to {other}, 95 % interval:", "", *_ratio_table(arms, other)]
        lines += ["", "Mean TTFT in seconds (share unserved) by prompt tokens:", ""]
        lines += _bucket_table(arms)
    lines += ["", "What the columns mean:", "", *(f"* {line}" for line in LEGEND)]
    return "\n".join(lines) + "\n"


def console_table(runs: Sequence[Run], meta: Mapping[str, Any] | None = None) -> str:
    """The main tables alone, after the rates with `meta`, for a terminal of 160 columns."""
    blocks = [] if meta is None else ["\n".join(text_table(_traffic_rows(runs, meta)))]
    for group, arms in groups(runs).items():
        blocks.append("\n".join([_title(group, arms), *text_table(_main_rows(arms))]))
    seeds = len({run["seed"] for run in runs})
    legend = "* the one best without oracles"
    if any(supports_claims(seeds, _repeats_of(arms)) for arms in groups(runs).values()):
        legend += f"   {WORSE} surely worse than fcfs, by {WORSE_SHARE:.0%} or more"
    warning = [line.strip("*") for line in doubts(seeds, _repeats(runs)) if line]
    return "\n\n".join([*blocks, *warning, legend])


def _repeats(runs: Sequence[Run]) -> int:
    """The most passes through its recording that a trace of these runs takes; 1: no repetition."""
    return max(int(run["notes"].get("trace_repeats", 1)) for run in runs)


def _repeats_of(arms: Mapping[str, list[Run]]) -> int:
    return max(_repeats(arm) for arm in arms.values())


def _traffic_rows(runs: Sequence[Run], meta: Mapping[str, Any]) -> list[list[str]]:
    """Asked, arrived and what that is of the capacity, side by side, with the engine it is of."""
    rows = [
        ["traffic", "asked req/s", "arrived req/s", "FCFS capacity req/s", "load asked",
         "load arrived", "engine"]
    ]  # fmt: skip
    for (workload, _, rate), arms in groups(runs).items():
        arrived = _arrived_per_s(arms)
        capacity = meta["capacity_requests_per_s"].get(workload)
        known = ["-"] * 3
        if capacity is not None:
            known = [f"{capacity:.3g}", f"{rate / capacity:.2f}", f"{arrived / capacity:.2f}"]
        rows.append([workload, f"{rate:.3g}", f"{arrived:.3g}", *known, meta["engine_name"]])
    return rows


def _arrived_per_s(arms: Mapping[str, list[Run]]) -> float:
    some = next(iter(arms.values()))
    return sum(float(run["notes"]["achieved_rate_per_s"]) for run in some) / len(some)


def _title(group: Group, arms: Mapping[str, list[Run]]) -> str:
    workload, load, rate = group
    some = next(iter(arms.values()))
    achieved = _arrived_per_s(arms)
    asked = f"load {load:g}, " if load is not None else ""
    capped = sum(int(run["notes"]["capped_prompts"]) for run in some)
    text = f"{workload}: {asked}{rate:.3g} req/s asked, {achieved:.3g} req/s arrived"
    stretch = some[0]["notes"].get("time_stretch")
    text += f", time stretched x{float(stretch):.3g}" if stretch is not None else ""
    repeats = _repeats(some)
    if repeats > 1:
        text += f", the recording repeated up to {repeats} times: too short for this"
    text += f", {capped} prompts capped" if capped else ""
    return text + (f"; {_regime(load)}" if load is not None else "")


def _regime(load: float) -> str:
    if load < NEAR_CAPACITY[0]:
        return "below capacity"
    return "near capacity" if load <= NEAR_CAPACITY[1] else "overload, the queue grows throughout"


def _mean(arm: Sequence[Run], column: Column) -> float:
    known = [v for v in values(arm, column.metric, column.part).values() if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def _sorted(arms: Mapping[str, list[Run]]) -> list[str]:
    column = next(c for c in COLUMNS if c.metric == "ttft_mean_s")
    return sorted(arms, key=lambda name: _mean(arms[name], column))


def _label(name: str, arms: Mapping[str, list[Run]]) -> str:
    """The policy's name; a policy of which runs failed was not judged on the same traces."""
    seeds, most = len(arms[name]), max(len(arm) for arm in arms.values())
    notes = ["oracle"] if arms[name][0]["oracle"] else []
    notes += [f"{seeds} of {most} seeds"] if seeds < most else []
    return f"{name} ({', '.join(notes)})" if notes else name


def _main_rows(arms: Mapping[str, list[Run]]) -> list[list[str]]:
    names = _sorted(arms)
    rows = [["policy", *(c.title for c in COLUMNS)], *([_label(n, arms)] for n in names)]
    for column in COLUMNS:
        means = {name: _mean(arms[name], column) for name in names}
        # A value that is surely worse may round to the best all the same.
        worse = {name for name in names if _is_worse(arms, name, column)}
        fair = {n: m for n, m in means.items() if n not in worse and not arms[n][0]["oracle"]}
        first = best(fair, column.larger_is_better, column.form)
        for name, cells in zip(names, rows[1:], strict=True):
            text = number(means[name], column.form)
            text = bold(text) if name == first else text
            cells.append(text + (f" {WORSE}" if name in worse else ""))
    return rows


def _is_worse(arms: Mapping[str, list[Run]], name: str, column: Column) -> bool:
    if name == REFERENCE or REFERENCE not in arms:
        return False
    both = {int(run["seed"]) for run in arms[name]} & {int(run["seed"]) for run in arms[REFERENCE]}
    if not supports_claims(len(both), _repeats(arms[name])):
        return False
    share, gap = against(arms[name], arms[REFERENCE], column.metric, column.part)
    if share.known and abs(share.value - 1.0) < WORSE_SHARE:
        return False
    return gap.high < 0 if column.larger_is_better else gap.low > 0  # no interval: False


def _ratio_table(arms: Mapping[str, list[Run]], reference: str) -> list[str]:
    rows = [["policy", *(c.title.rsplit(" ", 1)[0] for c in RATIO_COLUMNS)]]
    for name in _sorted(arms):
        if name == reference:
            continue
        cells = [_label(name, arms)]
        for column in RATIO_COLUMNS:
            share, _ = against(arms[name], arms[reference], column.metric, column.part)
            cells.append(interval(share))
        rows.append(cells)
    return table(rows)


def _bucket_table(arms: Mapping[str, list[Run]]) -> list[str]:
    some = next(iter(arms.values()))[0]["buckets"]
    limits = [(row["low_tokens"], row["high_tokens"]) for row in some]
    counts = [
        max(sum(run["buckets"][i]["requests"] for run in arm) for arm in arms.values())
        for i in range(len(limits))
    ]
    used = [i for i, count in enumerate(counts) if count]
    rows = [["policy", *(token_range(*limits[i]) for i in used)]]
    rows.append(["requests a policy", *(str(counts[i]) for i in used)])
    rows += [
        [_label(name, arms), *(_bucket_cell(arms[name], i) for i in used)] for name in _sorted(arms)
    ]
    return table(rows)


def _bucket_cell(arm: Sequence[Run], index: int) -> str:
    buckets = [run["buckets"][index] for run in arm if run["buckets"][index]["requests"]]
    n = sum(bucket["requests"] for bucket in buckets)
    if not n:
        return "-"
    wait = sum(bucket["ttft_mean_s"] * bucket["requests"] for bucket in buckets) / n
    unserved = sum(bucket["unserved"] for bucket in buckets) / n
    return f"{wait:.2f}" + (f" ({unserved:.0%})" if unserved else "")
