"""The report of capacities, evaluation.md, and their picture, attainment.png."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from agents.analysis.plots import save
from agents.analysis.tables import best, bold, doubts, interval, number, table, text_table
from agents.core.words import counted
from agents.experiments.capacity.attainment import ALL, CLASSES, EDGE, attained
from agents.experiments.capacity.estimate import BASE

Row = Mapping[str, Any]


def markdown(rows: Sequence[Row], meta: Mapping[str, Any]) -> str:
    """The whole report; `rows` of `estimate.capacity_rows`."""
    lines = [
        "# Capacity at a service level",
        "",
        f"Requests/s up to which a share of the requests keeps its service level, "
        f"`{meta['service']}`: TTFT at most so many seconds and so many times C(b), the prompt's "
        "prefill alone on the machine, and so many seconds a further token.  A request that is not "
        f"served misses it.  {counted(meta['seeds'], 'draw')} of {meta['duration_s']:g} s or more, "
        f"the same for every policy; the first and the last {EDGE:.0%} of a window are not judged. "
        "95 % intervals by resampling draws, for all policies together.  *Each class*: the rate up "
        "to which short, middle and long prompts each keep it.  (oracle) reads true output "
        "lengths and is nobody's rival.",
        "",
        f"Engine: {meta['engine_name']}.",
        *doubts(meta["seeds"], meta["repeats"]),
    ]
    for workload, share in _groups(rows):
        there = [r for r in rows if (r["workload"], r["level"]) == (workload, share)]
        limit = there[0]["limit_requests_per_s"]
        lines += ["", f"## {workload}, {share:.0%} of the requests", ""]
        lines += [f"FCFS drains {limit:.3g} requests/s.", "", *table(_cells(there))]
        if said := _no_gain(there):
            lines += ["", said]
    return "\n".join(lines) + "\n"


def console_table(rows: Sequence[Row]) -> str:
    """The same tables for a terminal."""
    lines: list[str] = []
    for workload, share in _groups(rows):
        there = [r for r in rows if (r["workload"], r["level"]) == (workload, share)]
        lines += [f"{workload}, {share:.0%} of the requests keep their service level", ""]
        lines += [*text_table(_cells(there)), ""]
        if said := _no_gain(there):
            lines += [said, ""]
    return "\n".join(lines)


def attainment_plot(ladders: Sequence[Row], shares: Sequence[float], path: Path) -> None:
    """Draw one panel a traffic: attainment of each policy against the rate."""
    workloads = list(dict.fromkeys(one["workload"] for one in ladders))
    size = (7.4, 4.2 * len(workloads))
    figure, axes = plt.subplots(len(workloads), 1, figsize=size, squeeze=False, dpi=110)
    for panel, workload in zip(axes[:, 0], workloads, strict=True):
        for one in (one for one in ladders if one["workload"] == workload):
            points = [(rung["rate_per_s"], attained(rung, ALL)) for rung in one["rungs"]]
            style = "k--" if one["policy"] == BASE else "-"
            panel.plot(*zip(*points, strict=True), style, lw=1.4, label=one["policy"])
        for share in shares:
            panel.axhline(share, color="#888888", lw=0.7, ls=":")
        panel.set(xlabel="requests/s", ylabel="share that keeps its level", title=workload)
        panel.set(xscale="log", ylim=(min(shares) - 0.15, 1.005))
        panel.grid(True, which="both", alpha=0.2)
        panel.legend(fontsize=7)
    figure.tight_layout()
    save(figure, path)


def _groups(rows: Sequence[Row]) -> list[tuple[str, float]]:
    return list(dict.fromkeys((row["workload"], row["level"]) for row in rows))


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    titles = ["policy", "requests/s", f"x {BASE}", "x best rival", "each class", f"each x {BASE}"]
    titles += [f"{name} kept" for name in CLASSES]
    priced = any("price_per_million_good" in row for row in rows)
    cells = [titles + (["price of a million good"] if priced else [])]
    fair = [row for row in rows if not row["oracle"]]
    values = {row["policy"]: row["requests_per_s"] or math.nan for row in fair}
    first = best(values, larger=True)
    for row in rows:
        value = interval([row["requests_per_s"], row["low"], row["high"]])
        line = [
            f"{row['policy']} (oracle)" if row["oracle"] else row["policy"],
            bold(value) if row["policy"] == first else value,
            _ratio(row, "ratio_to_fcfs"),
            _ratio(row, "ratio_to_best_rival"),
            number(row["each_requests_per_s"]),
            _ratio(row, "each_ratio_to_fcfs"),
            *(number(row["kept_by_class"][name], ".0%") for name in CLASSES),
        ]
        cells.append(line + ([number(row["price_per_million_good"], ".2f")] if priced else []))
    return cells


def _ratio(row: Row, name: str) -> str:
    return interval([row[name], row[f"{name}_low"], row[f"{name}_high"]], ".2f")


def _no_gain(rows: Sequence[Row]) -> str:
    """One line where no policy serves surely more than FCFS does."""
    sure = [r for r in rows if not r["oracle"] and (r["ratio_to_fcfs_low"] or 0.0) > 1.0]
    if sure or len(rows) < 2:
        return ""
    return f"No queue, no gain: no policy surely serves more than {BASE} at this service level."
