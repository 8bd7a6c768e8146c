"""The picture of an evaluation, frontier.png: who beats whom in two metrics at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from agents.analysis.plots import save
from agents.experiments.objectives import REFERENCE
from agents.experiments.policies.summary import Run, groups, values

OURS = "ewsjf"
COLOURS = {"ours": "#0072B2", "fcfs": "#000000", "oracle": "#888888", "rival": "#D55E00"}
MARKERS = {"ours": "o", "fcfs": "s", "oracle": "x", "rival": "^"}
PAIRS = (
    ("ttft_p99_s", "ttft_mean_s", "TTFT p99, s", "mean TTFT, s"),
    ("ttft_long_p95_s", "ttft_short_mean_s", "TTFT p95 of long prompts, s", "mean TTFT, short, s"),
)
WIDTH_IN, HEIGHT_IN = 7.4, 5.2
LOG_FROM = 4.0  # a wider range than this (largest over smallest) is shown on a log axis
MARK_PX = 5.0  # half the size of a mark
RADII_PX = (9.0, 16.0, 26.0, 38.0, 52.0, 70.0, 90.0)
DIRECTIONS = 12

Points = dict[str, tuple[float, float, bool]]


def frontier(runs: Sequence[Run], path: Path) -> None:
    """Draw one row of two panels a (workload, load): mean against p99, short against long p95.

    Down and left is better.  A policy is a mark at its means over seeds; the line joins the
    policies (oracles aside) that no other beats in both coordinates.
    """
    grouped = groups(runs)
    size = (2 * WIDTH_IN, HEIGHT_IN * len(grouped))
    figure, axes = plt.subplots(len(grouped), 2, figsize=size, squeeze=False, dpi=110)
    panels: list[tuple[Axes, Points]] = []
    for row, ((workload, load, rate), arms) in zip(axes, grouped.items(), strict=True):
        point = f"load {load:g}" if load is not None else f"{rate:.3g} req/s"
        for panel, (x, y, x_label, y_label) in zip(row, PAIRS, strict=True):
            every = {n: (_mean(a, x), _mean(a, y), a[0]["oracle"]) for n, a in arms.items()}
            shown = {n: p for n, p in every.items() if not math.isnan(p[0] + p[1])}
            draw_points(panel, shown)
            panel.set(xlabel=x_label, ylabel=y_label, title=f"{workload}, {point}")
            panels.append((panel, shown))
    figure.tight_layout()
    for panel, shown in panels:  # the layout must stand before labels can avoid each other
        label_points(panel, shown)
    save(figure, path)


def _kind(name: str, oracle: bool) -> str:
    if name == REFERENCE:
        return "fcfs"
    if oracle:
        return "oracle"
    return "ours" if name.startswith(OURS) else "rival"


def draw_points(panel: Axes, points: Points) -> None:
    """Marks of all points, and the line of those that no other beats in both coordinates."""
    staircase = [points[name][:2] for name in front(points)]
    if staircase:
        xs, ys = [p[0] for p in staircase], [p[1] for p in staircase]
        panel.step(xs, ys, where="post", color="#0072B2", alpha=0.35, lw=1.2, zorder=1)
    for name, (x, y, oracle) in sorted(points.items()):
        kind = _kind(name, oracle)
        panel.scatter([x], [y], color=COLOURS[kind], marker=MARKERS[kind], s=34, zorder=3)
    _scale(panel, [p[0] for p in points.values()], "x")
    _scale(panel, [p[1] for p in points.values()], "y")
    panel.margins(0.1)
    panel.grid(True, which="both", alpha=0.2)


def _scale(panel: Axes, coordinates: Sequence[float], axis: str) -> None:
    if not coordinates or not 0 < LOG_FROM * min(coordinates) < max(coordinates):
        return
    (panel.set_xscale if axis == "x" else panel.set_yscale)("log")
    ticks = panel.xaxis if axis == "x" else panel.yaxis
    ticks.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ticks.set_minor_formatter(NullFormatter())


def front(points: Points) -> list[str]:
    """Names of the points, oracles aside, that no other beats in both coordinates; by x."""
    fair = sorted((x, y, name) for name, (x, y, oracle) in points.items() if not oracle)
    return [n for i, (_, y, n) in enumerate(fair) if all(y < q for _, q, _ in fair[:i])]


def label_points(panel: Axes, points: Points, names: Collection[str] | None = None) -> None:
    """Put every name where it covers least: near its mark first, else further with a line.

    Args:
        panel: with all points drawn.
        points: by name.
        names: of those that get their name; None: all.
    """
    panel.autoscale_view()
    pixels = {n: panel.transData.transform((x, y)) for n, (x, y, _) in points.items()}
    taken = [
        Bbox.from_extents(x - MARK_PX, y - MARK_PX, x + MARK_PX, y + MARK_PX)
        for x, y in pixels.values()
    ]
    inside = panel.get_window_extent()
    named = points if names is None else [n for n in points if n in names]
    for name in sorted(named, key=lambda n: (-pixels[n][1], n)):
        x, y = pixels[name]
        colour = COLOURS[_kind(name, points[name][2])]
        text = panel.annotate(
            name, points[name][:2], xytext=(0, 0), textcoords="offset pixels", fontsize=7.5,
            color=colour, ha="center", va="center", zorder=4,
        )  # fmt: skip
        extent = text.get_window_extent()
        width, height = extent.width + 2, extent.height
        best, radius = _place(x, y, width, height, taken, inside)
        taken.append(best)
        centre = (best.x0 + best.x1) / 2 - x, (best.y0 + best.y1) / 2 - y
        text.set_position(centre)
        if radius > RADII_PX[1]:
            panel.annotate(
                "", points[name][:2], xytext=_edge(best, x, y), textcoords="offset pixels",
                arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.6},
            )  # fmt: skip


def _place(
    x: float, y: float, width: float, height: float, taken: Sequence[Bbox], inside: Bbox
) -> tuple[Bbox, float]:
    """The nearest box around (x, y) that overlaps least with `taken` and leaves `inside` least."""
    best = math.inf, inside, 0.0
    for radius in RADII_PX:
        for step in range(DIRECTIONS):
            angle = math.pi / 4 + 2 * math.pi * step / DIRECTIONS  # first up and right
            dx, dy = math.cos(angle), math.sin(angle)
            centre_x = x + dx * (radius + width / 2)
            centre_y = y + dy * (radius + height / 2)
            box = Bbox.from_bounds(centre_x - width / 2, centre_y - height / 2, width, height)
            covered = sum(_common(box, other) for other in taken)
            cost = covered + width * height - _common(box, inside)
            if cost < best[0] - 1e-6:
                best = cost, box, radius
        if best[0] < 1.0:
            break
    return best[1], best[2]


def _common(a: Bbox, b: Bbox) -> float:
    """Area that two boxes share, in square pixels."""
    width = float(min(a.x1, b.x1) - max(a.x0, b.x0))
    height = float(min(a.y1, b.y1) - max(a.y0, b.y0))
    return max(0.0, width) * max(0.0, height)


def _edge(box: Bbox, x: float, y: float) -> tuple[float, float]:
    """The point of a box nearest to (x, y), relative to it."""
    return min(max(x, box.x0), box.x1) - x, min(max(y, box.y0), box.y1) - y


def _mean(arm: Sequence[Run], metric: str) -> float:
    known = [v for v in values(arm, metric).values() if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan
