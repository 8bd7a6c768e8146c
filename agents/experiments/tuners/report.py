"""The report of a comparison of tuners: comparison.md and comparison.png."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from agents.analysis.plots import save
from agents.analysis.tables import (
    UNKNOWN,
    best,
    bold,
    doubts,
    interval,
    known_columns,
    number,
    supports_claims,
    table,
    value_of,
)
from agents.core.words import counted
from agents.experiments.tuners.summary import DEFAULT

OURS = "bayes"
NOTES = {
    "best_static": "  `best_static` searches offline.",
    "sac_long": "  `sac_long` has more windows.",
}
Row = Mapping[str, Any]
WINDOWS_UNTIL = (
    ("windows to 95 %", "windows_to_steady"),
    ("of the best run", "windows_to_95"),
    ("after the jump", "windows_after_jump"),
)
FELT = (  # title, key, format, and whether more is better
    ("online", "online_mean", "+.3f", True),
    ("regret", "regret", ".1f", False),
    ("violating", "violating", ".0%", False),
    ("held out", "held_out_violations", ".0%", False),
    ("worst window", "worst_window", "+.2f", True),
)
OVERALL = (
    ("score (IQM)", "iqm"),
    ("P(better than default)", "probability_over_default"),
    ("P(better than random)", "probability_over_random"),
)


def markdown(summary: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """The whole report."""
    arms = meta["arms"]
    over, zero = " over that of the start, which is `default`,", "default = 0"
    if DEFAULT not in arms:
        over, zero = "", "an objective of 0 = 0"
    lines = [
        "# Comparison of tuners",
        "",
        f"`{meta['command']}`",
        "",
        f"{counted(meta['seeds'], 'tuning seed')}; every arm of a seed met the same traffic.  "
        f"*Gain*: mean objective of the final recommendation{over} on held-out traces.  "
        "*Online*: mean objective while tuning; *regret*: what was lost against the best "
        "recommendation that anyone found, summed over an arm's own windows.  "
        "*Windows to 95 %*: until a recommendation first has 95 % of the best gain (of the best "
        "mean of a tuner over its seeds, at its end or on the way; *of the best run*: of the best "
        "that any run or policy has), the median over seeds.  "
        "*Violating*: share of the windows, while tuning and held out, that broke a "
        "constraint.  Brackets are 95 % intervals, bootstrapped over seeds; p: two-sided "
        "sign-flip test, seed by seed.  **Bold** is the one best value of a column; whether it "
        "surely is, the intervals say." + "".join(NOTES[arm] for arm in NOTES if arm in arms),
        *doubts(
            min([meta["seeds"], *(t["seeds"] for t in summary["tasks"].values())]),
            max(_repeats(meta).values(), default=1),
        ),
    ]
    for name, task in summary["tasks"].items():
        lines += ["", f"## {name}", ""]
        if name in meta.get("engines", {}):
            lines += [f"Engine: {meta['engines'][name]}.", ""]
        lines += [_best_gains(task, _repeats(meta).get(name, 1)), ""]
        lines += _task_table(task, _supports_claims(summary, meta, [name]))
    if summary["overall"]:
        lines += ["", "## Over all tasks", ""]
        lines += [
            f"Score: {zero}, best found by anyone = 1; interquartile mean over seeds and "
            "tasks, stratified paired bootstrap.",
            "",
            *_overall_table(summary["overall"], _supports_claims(summary, meta, summary["tasks"])),
        ]
    return "\n".join(lines) + "\n"


def _repeats(meta: Mapping[str, Any]) -> Mapping[str, int]:
    """How often the traffic of each task goes through its recording, where that is known."""
    found: Mapping[str, int] = meta.get("trace_repeats", {})
    return found


def _supports_claims(
    summary: Mapping[str, Any], meta: Mapping[str, Any], names: Iterable[str]
) -> bool:
    """Whether a probability may be told that rests on all these tasks."""
    return all(
        supports_claims(summary["tasks"][name]["seeds"], _repeats(meta).get(name, 1))
        for name in names
    )


def _best_gains(task: Mapping[str, Any], repeats: int) -> str:
    found = f"The best of any run or policy: {task['best_gain']:.3f}, luck included."
    if task["seeds_left_out"]:
        left_out = ", ".join(map(str, task["seeds_left_out"]))
        found += f"  Seeds that an arm lacks, and that count for none: {left_out}."
    if task["steady_gain"] > 0.0:
        found = f"Best mean of a tuner: {task['steady_gain']:.3f}.  {found}"
    if repeats > 1:
        found += f"  The recording was repeated up to {repeats} times: too short for this."
    return found


def _task_table(task: Mapping[str, Any], sure: bool) -> list[str]:
    """The arms of a task, best first; `sure`: the p-value is told."""
    arms = dict(sorted(task["arms"].items(), key=lambda item: -(item[1]["gain"]["value"] or 0.0)))
    over = {name: arm.get("over_random") or {} for name, arm in arms.items()}
    columns = [
        ("tuner", {name: name for name in arms}),
        ("windows", {name: number(arm["windows"], ".0f") for name, arm in arms.items()}),
        ("gain", _best_bold({n: arm["gain"] for n, arm in arms.items()}, "+.3f")),
        ("over random", _best_bold({n: row.get("difference") for n, row in over.items()}, "+.3f")),
        ("p", {n: number(row.get("p") if sure else None, ".3f") for n, row in over.items()}),
        *(
            (title, {name: _windows(arm.get(key)) for name, arm in arms.items()})
            for title, key in WINDOWS_UNTIL
        ),
        *(
            (title, _best_bold({n: _alone(arm[key]) for n, arm in arms.items()}, form, larger))
            for title, key, form, larger in FELT
        ),
        ("tuner s/window", {n: number(a["tuner_s_per_window"], ".2f") for n, a in arms.items()}),
    ]
    return _shown(columns, list(arms))


def _overall_table(overall: Mapping[str, Row], sure: bool) -> list[str]:
    """The arms over all tasks, best first; `sure`: how probably an arm is better is told."""
    shown = OVERALL if sure else OVERALL[:1]
    arms = dict(sorted(overall.items(), key=lambda item: -(item[1]["iqm"]["value"] or 0.0)))
    columns = [
        ("tuner", {name: name for name in arms}),
        *(
            (title, _best_bold({name: arm.get(key) for name, arm in arms.items()}, ".2f"))
            for title, key in shown
        ),
    ]
    return _shown(columns, list(arms))


def _shown(columns: Sequence[tuple[str, Mapping[str, str]]], names: Sequence[str]) -> list[str]:
    """The table of some arms, without columns that say nothing of any arm."""
    rows = [[title for title, _ in columns]]
    rows += [[cells[name] for _, cells in columns] for name in names]
    return table(known_columns(rows))


def _best_bold(
    estimates: Mapping[str, Row | None], form: str, larger: bool = True
) -> dict[str, str]:
    """The cells of a column by name, the one best of them bold."""
    first = best({n: value_of(e) for n, e in estimates.items()}, larger, form)
    cells = {name: interval(estimate, form) for name, estimate in estimates.items()}
    return {name: bold(cell) if name == first else cell for name, cell in cells.items()}


def _alone(value: Row | float | None) -> Row:
    """A value without its interval: the table is wide enough."""
    known = value["value"] if isinstance(value, Mapping) else value
    return {"value": known, "low": None, "high": None}


def _windows(found: Row | None) -> str:
    """A median with its interval; runs that never get there count as more than any number."""
    if found is None:
        return UNKNOWN
    return interval([found[key] for key in ("median", "low", "high")], ".0f")


def picture(summary: Mapping[str, Any], path: Path) -> None:
    """Gain of the recommendation by windows, and final gains with intervals, a row a task."""
    tasks = summary["tasks"]
    figure, axes = plt.subplots(
        len(tasks), 2, figsize=(13.0, 4.2 * len(tasks)), squeeze=False, dpi=100
    )
    for (left, right), (name, task) in zip(axes, tasks.items(), strict=True):
        _draw_curves(left, task)
        left.set_title(f"{name}: while tuning")
        _draw_gains(right, task)
        right.set_title(f"{name}: final recommendation")
    figure.tight_layout()
    save(figure, path)


def _draw_curves(panel: Axes, task: Mapping[str, Any]) -> None:
    for name, arm in task["arms"].items():
        if "curve" not in arm:
            continue
        x = [point["windows"] for point in arm["curve"]]
        y = [point["gain"]["value"] for point in arm["curve"]]
        (line,) = panel.plot(x, y, marker="o", label=name, linewidth=2.5 if name == OURS else 1.5)
        if arm["curve"] and arm["curve"][0]["gain"]["low"] is not None:
            low = [point["gain"]["low"] for point in arm["curve"]]
            high = [point["gain"]["high"] for point in arm["curve"]]
            panel.fill_between(x, low, high, color=line.get_color(), alpha=0.12)
    panel.axhline(0.0, color="black", linewidth=0.8)
    panel.axhline(task["best_gain"], color="grey", linestyle=":", linewidth=1.0)
    panel.set(xlabel="windows", ylabel=_gain_label(task))
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8)


def _draw_gains(panel: Axes, task: Mapping[str, Any]) -> None:
    arms = sorted(task["arms"].items(), key=lambda item: item[1]["gain"]["value"] or 0.0)
    for row, (_, arm) in enumerate(arms):
        gain = arm["gain"]
        if gain["low"] is not None:
            panel.plot([gain["low"], gain["high"]], [row, row], color="#0072B2", linewidth=2)
        panel.plot(gain["value"], row, "o", color="#0072B2")
    panel.axvline(0.0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(arms)), [name for name, _ in arms])
    panel.set_xlabel(_gain_label(task))


def _gain_label(task: Mapping[str, Any]) -> str:
    return f"gain{' over the default' if DEFAULT in task['arms'] else ''}, held out"
