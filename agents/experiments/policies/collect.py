"""How do the results of a study become the small files and tables that the README shows?"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.experiments.policies.summary import REFERENCE
from ewsjf_env.config import ConfigError

METRICS = (
    "output_tokens_per_s",
    "goodput_requests_per_s",
    "ttft_mean_s",
    "ttft_p99_s",
    "ttft_short_mean_s",
    "ttft_short_p95_s",
    "ttft_long_mean_s",
    "ttft_long_p95_s",
    "wait_max_s",
    "jain_slowdown",
    "outstanding",
)
COLUMNS = (
    ("out tok/s", "output_tokens_per_s", "{:.0f}"),
    ("TTFT mean", "ttft_mean_s", "{:.2f}"),
    ("p99", "ttft_p99_s", "{:.1f}"),
    ("short mean", "ttft_short_mean_s", "{:.2f}"),
    ("short p95", "ttft_short_p95_s", "{:.2f}"),
    ("long p95", "ttft_long_p95_s", "{:.1f}"),
    ("max", "wait_max_s", "{:.0f}"),
)
Entry = dict[str, Any]


def collect(study: Path, docs: Path) -> list[str]:
    """Copy report, picture and a small summary of every evaluation; return their names.

    Raises:
        ConfigError: `study` holds no finished evaluation.
    """
    found = sorted(path.parent for path in study.glob("*/evaluation.json"))
    if not found:
        raise ConfigError(f"study: {study} holds no */evaluation.json")
    docs.mkdir(parents=True, exist_ok=True)
    for folder in found:
        data = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        meta = {k: v for k, v in data["meta"].items() if k != "policies"}
        meta["policies"] = [
            {k: p[k] for k in ("name", "order", "parameters")} for p in data["meta"]["policies"]
        ]
        kept = [_rounded(e) for e in data["summary"] if e["metric"] in METRICS]
        text = json.dumps({"meta": meta, "summary": kept}, separators=(",", ":"))
        (docs / f"{folder.name}.json").write_text(text + "\n", encoding="utf-8")
        shutil.copyfile(folder / "evaluation.md", docs / f"{folder.name}.md")
        shutil.copyfile(folder / "frontier.png", docs / f"{folder.name}.png")
    return [folder.name for folder in found]


def short_table(path: Path, load: float, policies: Sequence[str]) -> str:
    """A table of the named policies at one load, from a summary file that `collect` wrote.

    Bold is the best of a column; after the value stands its ratio to fcfs.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))["summary"]
    chosen = [e for e in entries if e["load"] == load and e["part"] == "metrics"]
    by_key = {(e["policy"], e["metric"]): e for e in chosen}
    rows = ["| policy | " + " | ".join(title for title, _, _ in COLUMNS) + " |"]
    rows.append("|---|" + "---|" * len(COLUMNS))
    for policy in policies:
        cells = [policy]
        for _, metric, form in COLUMNS:
            cells.append(_cell(by_key, policy, metric, form, policies))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cell(
    entries: Mapping[tuple[str, str], Entry],
    policy: str,
    metric: str,
    form: str,
    policies: Sequence[str],
) -> str:
    entry = entries[policy, metric]
    if entry["mean"] is None:
        return "-"
    values = [entries[p, metric]["mean"] for p in policies]
    best = (max if metric == "output_tokens_per_s" else min)(v for v in values if v is not None)
    text = form.format(entry["mean"])
    if text == form.format(best):
        text = f"**{text}**"
    ratio = entry["ratio_to_fcfs"]
    return text if policy == REFERENCE or ratio is None else f"{text} ({ratio:.2f}x)"


def _rounded(entry: Entry) -> Entry:
    return {k: _round(v) for k, v in entry.items()}


def _round(value: Any) -> Any:
    if isinstance(value, float) and value:
        return round(value, 4 - math.floor(math.log10(abs(value))))
    return [_round(v) for v in value] if isinstance(value, list) else value
