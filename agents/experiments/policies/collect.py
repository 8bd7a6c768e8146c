"""The small files of a study that the README shows, made of its large ones."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from ewsjf_env.config import ConfigError, refuse_irregular

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
        refuse_irregular(folder / "evaluation.json")
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


def _rounded(entry: Entry) -> Entry:
    return {k: _round(v) for k, v in entry.items()}


def _round(value: Any) -> Any:
    if isinstance(value, float) and value:
        return round(value, 4 - math.floor(math.log10(abs(value))))
    return [_round(v) for v in value] if isinstance(value, list) else value
