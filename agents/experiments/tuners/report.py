"""How is a comparison of tuners told to a reader? comparison.md and comparison.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from agents.core.words import counted
from agents.experiments.tuners.summary import DEFAULT

OURS = "bayes"
NOTES = {
    "best_static": "  `best_static` searches offline.",
    "sac_long": "  `sac_long` has more windows.",
}
Row = Mapping[str, Any]


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
        "sign-flip test, seed by seed." + "".join(NOTES[arm] for arm in NOTES if arm in arms),
    ]
    for name, task in summary["tasks"].items():
        lines += ["", f"## {name}", ""]
        if name in meta.get("engines", {}):
            lines += [f"Engine: {meta['engines'][name]}.", ""]
        lines += [_best_gains(task), ""]
        lines += _task_table(task)
    if summary["overall"]:
        lines += ["", "## Over all tasks", ""]
        lines += [
            f"Score: {zero}, best found by anyone = 1; interquartile mean over seeds and "
            "tasks, stratified paired bootstrap.",
            "",
            *_overall_table(summary["overall"]),
        ]
    return "\n".join(lines) + "\n"


def _best_gains(task: Mapping[str, Any]) -> str:
    found = f"The best of any run or policy: {task['best_gain']:.3f}, luck included."
    if task["seeds_left_out"]:
        left_out = ", ".join(map(str, task["seeds_left_out"]))
        found += f"  Seeds that an arm lacks, and that count for none: {left_out}."
    if task["steady_gain"] > 0.0:
        found = f"Best mean of a tuner: {task['steady_gain']:.3f}.  {found}"
    return found


def _task_table(task: Mapping[str, Any]) -> list[str]:
    header = [
        "tuner",
        "windows",
        "gain",
        "over random",
        "p",
        "windows to 95 %",
        "of the best run",
        "after the jump",
        "online",
        "regret",
        "violating",
        "held out",
        "worst window",
        "tuner s/window",
    ]
    arms = sorted(task["arms"].items(), key=lambda item: -(item[1]["gain"]["value"] or 0.0))
    rows = []
    for name, arm in arms:
        over = arm.get("over_random")
        rows.append(
            [
                f"**{name}**" if name == OURS else name,
                f"{arm['windows']:.0f}",
                _estimate(arm["gain"]),
                _estimate(over["difference"]) if over else "-",
                _number(over["p"], ".3f") if over else "-",
                _windows(arm.get("windows_to_steady")),
                _windows(arm.get("windows_to_95")),
                _windows(arm.get("windows_after_jump")),
                _number(arm["online_mean"]["value"], "+.3f"),
                _number(arm["regret"]["value"], ".1f"),
                _number(arm["violating"]["value"], ".0%"),
                _number(arm["held_out_violations"]["value"], ".0%"),
                _number(arm["worst_window"], "+.2f"),
                _number(arm["tuner_s_per_window"], ".2f"),
            ]
        )
    return _table(header, rows, without=_empty(rows))


def _overall_table(overall: Mapping[str, Row]) -> list[str]:
    header = ["tuner", "score (IQM)", "P(better than default)", "P(better than random)"]
    arms = sorted(overall.items(), key=lambda item: -(item[1]["iqm"]["value"] or 0.0))
    rows = [
        [
            f"**{name}**" if name == OURS else name,
            _estimate(arm["iqm"], ".2f"),
            _estimate(arm.get("probability_over_default"), ".2f"),
            _estimate(arm.get("probability_over_random"), ".2f"),
        ]
        for name, arm in arms
    ]
    return _table(header, rows, without=_empty(rows))


def _empty(rows: Sequence[Sequence[str]]) -> list[int]:
    """Columns that say nothing of any arm."""
    return [i for i, column in enumerate(zip(*rows, strict=True)) if set(column) == {"-"}]


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], without: Sequence[int] = ()
) -> list[str]:
    kept = [i for i in range(len(header)) if i not in without]
    lines = [[header[i] for i in kept], ["---" for _ in kept]]
    lines += [[row[i] for i in kept] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _estimate(estimate: Row | None, form: str = "+.3f") -> str:
    if estimate is None or estimate["value"] is None:
        return "-"
    text = format(estimate["value"], form)
    if estimate["low"] is None:
        return text
    return f"{text} [{format(estimate['low'], form)}, {format(estimate['high'], form)}]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _windows(found: Row | None) -> str:
    if found is None:
        return "-"
    low, high = (x if isinstance(x, str) else f"{x:.0f}" for x in (found["low"], found["high"]))
    middle = found["median"] if isinstance(found["median"], str) else f"{found['median']:.0f}"
    return f"{middle} [{low}, {high}]"


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
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png")
    plt.close(figure)
    temporary.replace(path)


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
