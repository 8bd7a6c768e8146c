"""The picture of a study of policies, study.png: the frontier on every workload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from agents.analysis.plots import save
from agents.experiments.objectives import REFERENCE
from agents.experiments.policies.plots import Points, draw_points, front, label_points
from agents.experiments.policy_study.report import shown_loads
from agents.experiments.policy_study.study import PER_LOAD, SUBJECT

AGAINST = {
    "ttft_p99_s": "TTFT p99, s",
    "wait_max_s": "longest wait, s",
    "ttft_long_p95_s": "TTFT p95 of long prompts, s",
}
WIDTH_IN, HEIGHT_IN, DPI = 5.4, 4.2, 72
ALWAYS_NAMED = (REFERENCE, "ewsjf", SUBJECT, "ewsjf" + PER_LOAD)


def picture(found: Mapping[str, Any], path: Path) -> None:
    """A row a workload: mean TTFT against the other metrics, near capacity and beyond.

    Down and left is better.  Named are EWSJF, FCFS, the best single rival and whoever is on the
    frontier; the other arms are marks.
    """
    loads, names = shown_loads(found["config"]), list(found["config"]["workloads"])
    columns = [(load, metric) for load in loads for metric in AGAINST]
    figure, axes = plt.subplots(
        len(names),
        len(columns),
        figsize=(WIDTH_IN * len(columns), HEIGHT_IN * len(names)),
        squeeze=False,
        dpi=DPI,
    )
    oracles = {a["arm"] for a in found["arms"] if a["oracle"]}
    cells = {(c["workload"], c["load"]): c for c in found["cells"]}
    panels: list[tuple[Axes, Points]] = []
    for row, name in zip(axes, names, strict=True):
        for panel, (load, metric) in zip(row, columns, strict=True):
            points = _points(cells[name, load], metric, oracles)
            draw_points(panel, points)
            panel.set(xlabel=AGAINST[metric], ylabel="mean TTFT, s", title=f"{name}, load {load:g}")
            panels.append((panel, points))
    figure.tight_layout()
    for panel, points in panels:
        label_points(panel, points, {*ALWAYS_NAMED, found["single_rival"], *front(points)})
    save(figure, path)


def _points(cell: Mapping[str, Any], metric: str, oracles: set[str]) -> Points:
    x, y = cell["metrics"].index(metric), cell["metrics"].index("ttft_mean_s")
    return {
        label: (values[x], values[y], label in oracles)
        for label, (_, values) in cell["arms"].items()
        if values[x] is not None and values[y] is not None
    }
