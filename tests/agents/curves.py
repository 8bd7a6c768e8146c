"""What people see of a run: its curves in TensorBoard and its progress.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.runs.tensorboard.tracker import EVENTS, PROGRESS


def event_file(folder: Path) -> Path:
    """The only one."""
    (path,) = folder.glob(EVENTS)
    return path


def read(folder: Path) -> EventAccumulator:
    sizes = {"scalars": 0, "images": 0, "tensors": 0}  # 0: all of them
    return EventAccumulator(str(folder), size_guidance=sizes).Reload()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point of every curve in the order of the file; wall times aside."""
    seen = read(folder)
    return {
        tag: [(event.step, event.value) for event in seen.Scalars(tag)]
        for tag in seen.Tags()["scalars"]
        if not tag.startswith("time/")
    }


def table(folder: Path) -> list[dict[str, str]]:
    """progress.csv; wall times aside."""
    with (folder / PROGRESS).open(newline="") as file:
        return [
            {name: text for name, text in row.items() if not name.startswith("time/")}
            for row in csv.DictReader(file)
        ]
