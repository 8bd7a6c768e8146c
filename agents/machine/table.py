"""The findings of a measurement in a few lines of Markdown, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.analysis.tables import number
from agents.analysis.tables import table as markdown_table
from agents.machine.plan import SIMULATED


def table(data: Mapping[str, Any]) -> str:
    """Steps, serving and prediction; of a failed stage, why."""
    stages = data["stages"]
    where = data["device"]
    if where == SIMULATED:
        where = "a simulated device: nothing here was measured on a GPU"
    lines = [f"Measured on {where}.", ""]
    for name, stage in stages.items():
        if not stage.get("ok"):
            lines.append(f"* {name}: not done: {stage.get('error')}")
    steps = stages.get("steps", {})
    if "unseen" in steps:
        error = steps["unseen"]["stretches"]
        lines.append(
            f"* time of {error['count']} stretches of 0.3 s that were not fitted: error median "
            f"{_percent(error['median'])}, p95 {_percent(error['p95'])}, total "
            f"{_percent(error['bias'])}; steps scheduled while the step before ran: "
            f"{_percent(steps['steps']['overlapped_share'])}"
        )
        if steps["front_end_s"] is not None:
            lines.append(f"* between client and scheduler: {1e3 * steps['front_end_s']:.1f} ms")
    for name, error in stages.get("prediction", {}).get("absolute_error", {}).items():
        lines.append(
            f"* virtual time, {name}: error median {_percent(error['median'])}, worst "
            f"{_percent(error['worst'])}"
        )
    swap = stages.get("hot_swap", {})
    if "requests" in swap:
        lines.append(
            f"* {swap['policy_changes']} policy changes under load: {swap['answered_whole']} of "
            f"{swap['requests']} requests answered whole"
        )
    lines += _serving(stages)
    return "\n".join(lines)


def _serving(stages: Mapping[str, Any]) -> list[str]:
    runs = stages.get("serving", {}).get("runs", {})
    if not runs:
        return []
    predicted = stages.get("prediction", {}).get("runs", {})
    titles = "run,TTFT p50,p95,out tok/s,predicted p50,p95,out tok/s,scheduler"
    rows = [titles.split(",")]
    for key, run in runs.items():
        cells = [key]
        for metrics in (run["metrics"], predicted.get(key, {}).get("metrics", {})):
            cells += [number(metrics.get(n)) for n in ("ttft_p50_s", "ttft_p95_s")]
            cells.append(number(metrics.get("output_tokens_per_s")))
        cells.append(_percent(run["scheduler_share"]))
        rows.append(cells)
    return ["", *markdown_table(rows)]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
