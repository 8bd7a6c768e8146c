"""Two small images of a run for TensorBoard: its partition, and its frontier."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ewsjf_env.measure.traffic import LENGTH_EDGES, TrafficStatistics

WIDTH_PX, HEIGHT_PX = 520, 380
_DPI = 100
_PLACE = (0.12, 0.13, 0.84, 0.79)  # left, bottom, width and height of the axes
_BLUE, _ORANGE, _BLACK = "#0072B2", "#D55E00", "#000000"
_LOG_FROM = 4.0  # a wider range than this (largest over smallest) is shown on a log axis
_SAME = 1e-4  # an action is a float32: what was recommended comes back slightly rounded
_SHORTEST, _LONGEST = 16, 16_384  # tokens: where the open classes at both ends are drawn to

_SHORT, _LONG = "ttft_short_p95_ms", "ttft_long_p95_ms"
Scalars = Mapping[str, float]


def partition(cuts: Sequence[float], traffic: TrafficStatistics) -> bytes:
    """Draw the cuts between the queues over the lengths of the prompts that arrived; a PNG.

    Args:
        cuts: upper prompt lengths of all queues but the last, in tokens, ascending, > 0.
        traffic: of the window.
    """
    figure, axes = _figure()
    low = min([_SHORTEST, *(c / 2 for c in cuts)])
    edges = [low, *LENGTH_EDGES, max([_LONGEST, *(2 * c for c in cuts)])]
    count, work = _known(traffic.count_shares), _known(traffic.work_shares)
    axes.stairs(count, edges, fill=True, color=_BLUE, alpha=0.35, label="requests")
    axes.stairs(work, edges, color=_ORANGE, lw=1.6, label="prefill work")
    for number, cut in enumerate(cuts):
        label = f"cuts between {len(cuts) + 1} queues" if number == 0 else None
        axes.axvline(cut, color=_BLACK, lw=0.9, ls="--", label=label)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(_plain)
    axes.set(xlabel="prompt length, tokens", ylabel="share of the window", xlim=(low, edges[-1]))
    return _png(figure, axes)


def frontier(history: Sequence[Scalars]) -> bytes | None:
    """Draw short against long p95 TTFT, a point a window; None while nothing was measured.

    Down and left is better.  The line joins windows that no other beats in both; rings are
    violations, stars are windows at the values that the agent now recommends.

    Args:
        history: scalars by tag (`WindowRecord.scalars`) of every window so far.
    """
    shown = {w: p for w, s in enumerate(history) if (p := _point(s, "latency")) is not None}
    if not shown:
        return None
    figure, axes = _figure()
    numbers = list(shown)
    xs, ys = ([point[i] for point in shown.values()] for i in (0, 1))
    marks = axes.scatter(xs, ys, c=numbers, cmap="viridis", s=16, zorder=3)
    figure.colorbar(marks, label="window")
    best = sorted(set(shown.values()))
    best = [p for i, p in enumerate(best) if all(p[1] < q[1] for q in best[:i])]
    axes.step(*zip(*best, strict=True), where="post", color=_BLUE, alpha=0.5, lw=1.2)
    _mark(axes, [shown[w] for w in numbers if history[w]["safety/violation"]], "violation",
          marker="o", s=60, facecolors="none", edgecolors=_ORANGE)  # fmt: skip
    recommended = _recommended(history)
    _mark(axes, [shown[w] for w in recommended if w in shown], "recommended values",
          marker="*", s=110, color=_ORANGE, edgecolors=_BLACK, linewidths=0.5)  # fmt: skip
    references = [p for s in history if (p := _point(s, "reference")) is not None]
    if references:
        mean = [sum(p[i] for p in references) / len(references) for i in (0, 1)]
        _mark(axes, [(mean[0], mean[1])], "reference, mean", marker="s", s=36, color=_BLACK)
    axes.set(xlabel="TTFT p95 of short prompts, s", ylabel="TTFT p95 of long prompts, s")
    for coordinates, scale, axis in (
        (xs, axes.set_xscale, axes.xaxis),
        (ys, axes.set_yscale, axes.yaxis),
    ):
        if 0 < _LOG_FROM * min(coordinates) < max(coordinates):
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(_plain)
            axis.set_minor_formatter(NullFormatter())
    return _png(figure, axes)


def _recommended(history: Sequence[Scalars]) -> list[int]:
    """The windows that ran at what the last one recommends."""
    newest = history[-1]
    prefix = "incumbent/"
    wanted = {t.removeprefix(prefix): v for t, v in newest.items() if t.startswith(prefix)}
    if not wanted:
        return []
    return [
        window
        for window, values in enumerate(history)
        if all(
            math.isclose(values[f"parameters/{name}"], value, rel_tol=_SAME, abs_tol=_SAME)
            for name, value in wanted.items()
        )
    ]


def _point(values: Scalars, group: str) -> tuple[float, float] | None:
    short, long = values.get(f"{group}/{_SHORT}"), values.get(f"{group}/{_LONG}")
    return None if short is None or long is None else (short / 1000.0, long / 1000.0)


def _mark(axes: Axes, points: Sequence[tuple[float, float]], label: str, **style: Any) -> None:
    if points:
        axes.scatter([p[0] for p in points], [p[1] for p in points], label=label, zorder=4, **style)


def _figure() -> tuple[Figure, Axes]:
    # Without pyplot: nothing global, and nothing to close.
    figure = Figure(figsize=(WIDTH_PX / _DPI, HEIGHT_PX / _DPI), dpi=_DPI)
    axes = figure.add_axes(_PLACE)  # a layout engine takes longer than all the drawing
    axes.grid(True, alpha=0.2)
    return figure, axes


def _png(figure: Figure, axes: Axes) -> bytes:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plain(number: float, _: object) -> str:
    return f"{number:g}"


def _known(shares: Sequence[float]) -> list[float]:
    return [0.0 if math.isnan(share) else share for share in shares]
