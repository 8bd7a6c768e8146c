"""What does the frontier between the policies look like? frontier.png."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from agents.summary import REFERENCE, Run, groups, values

OURS = "ewsjf"
COLOURS = {"ours": "#0072B2", "fcfs": "#000000", "oracle": "#999999", "rival": "#D55E00"}
PAIRS = (
    ("ttft_p99_s", "ttft_mean_s", "TTFT p99, s", "mean TTFT, s"),
    ("ttft_long_p95_s", "ttft_short_mean_s", "TTFT p95 of long prompts, s", "mean TTFT, short, s"),
)
WIDTH_IN, HEIGHT_IN = 6.4, 4.6


def frontier(runs: Sequence[Run], path: Path) -> None:
    """Draw one row of two panels a (workload, load): mean against p99, short against long p95.

    Down and left is better.  A policy is a dot of its means over seeds; a dot in the grey
    region is beaten by another policy (oracles aside) in both coordinates.
    """
    grouped = groups(runs)
    size = (2 * WIDTH_IN, HEIGHT_IN * len(grouped))
    figure, axes = plt.subplots(len(grouped), 2, figsize=size, squeeze=False)
    for row, ((workload, load, rate), arms) in zip(axes, grouped.items(), strict=True):
        point = f"load {load:g}" if load is not None else f"{rate:.3g} req/s"
        for panel, (x, y, x_label, y_label) in zip(row, PAIRS, strict=True):
            _panel(panel, {n: (_mean(a, x), _mean(a, y), a[0]["oracle"]) for n, a in arms.items()})
            panel.set(xlabel=x_label, ylabel=y_label, title=f"{workload}, {point}")
    figure.tight_layout()
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    temporary.replace(path)


def _panel(panel: Axes, points: dict[str, tuple[float, float, bool]]) -> None:
    shown = {n: p for n, p in points.items() if not (math.isnan(p[0]) or math.isnan(p[1]))}
    fair = sorted((x, y) for x, y, oracle in shown.values() if not oracle)
    staircase = [(x, y) for i, (x, y) in enumerate(fair) if all(y < q for _, q in fair[:i])]
    panel.set_yscale("log")
    if staircase:
        xs, ys = [p[0] for p in staircase], [p[1] for p in staircase]
        panel.step(xs, ys, where="post", color="#0072B2", alpha=0.35, lw=1.2, zorder=1)
    for name, (x, y, oracle) in sorted(shown.items()):
        kind = "oracle" if oracle else "rival"
        kind = "fcfs" if name == REFERENCE else kind
        kind = "ours" if name.startswith(OURS) or name.endswith(".json") else kind
        marker = {"ours": "o", "fcfs": "s", "oracle": "x", "rival": "^"}[kind]
        panel.scatter([x], [y], color=COLOURS[kind], marker=marker, s=42, zorder=3)
        panel.annotate(
            name, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=7.5,
            color=COLOURS[kind],
        )  # fmt: skip
    panel.grid(True, which="both", alpha=0.2)


def _mean(arm: Sequence[Run], metric: str) -> float:
    known = [v for v in values(arm, metric).values() if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan
