"""The files that people watch a run by, made from windows.jsonl and timing.jsonl alone.

    events.out.tfevents.*   by torch's SummaryWriter: a row of the page "HParams" and the page
                            "Custom Scalars", then scalars by window, images every few windows
    progress.csv            the same scalars, one line a window

Whoever opens a run deletes both and writes them anew, so that a run has one event file and each
window is in each file once, whatever ended the process before.  A file that cannot be written (a
full disk) is warned of once; the run goes on, and the whole file is written again when a window
finds room for it, or on resume.
"""

from __future__ import annotations

import contextlib
import csv
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path
from typing import Any, Protocol

from tensorboard.compat.proto.summary_pb2 import Summary

from agents.core.window import WindowRecord
from agents.runs.tensorboard import hparams
from agents.runs.tensorboard import pictures as run_pictures
from agents.runs.tensorboard.tags import (
    HEADLINES,
    MEAN,
    VIOLATIONS,
    RunFacts,
    columns,
    custom_layout,
    texts,
)
from agents.runs.timing import Timing, TimingLog
from ewsjf_env.measure.tags import scalars

PROGRESS = "progress.csv"
EVENTS = "events.out.tfevents.*"
_FEWEST_WINDOWS, _MOST_PICTURES = 10, 20


@dataclass(frozen=True)
class Point:
    """A window as it is shown: its record, its scalars by tag, and when it ended (Unix time)."""

    record: WindowRecord
    values: Mapping[str, float]
    ended_at_s: float | None


class View(Protocol):
    """A file that shows a run.  Every method raises OSError when it cannot be written."""

    def begin(self) -> None:
        """Delete what is left of an earlier process, and write the beginning."""
        ...

    def add(self, points: Sequence[Point]) -> None:
        """Show the last of the windows so far."""
        ...

    def end(self, points: Sequence[Point]) -> None:
        """Show that no window follows."""
        ...

    def close(self) -> None:
        """Free what is open; may be called more than once."""
        ...


class Tracker:
    """Writes what can be watched of a run.

    Args:
        folder: of the run; exists.
        run: what is known before the first window.
        past: the windows so far, in order: none for a new run.
        images_every: an image every so many windows, and at the end; None: about 20 in a run,
            and not more than one in ten windows; 0: none.

    Raises:
        OSError: wall times of an earlier process cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        run: RunFacts,
        past: Sequence[WindowRecord] = (),
        images_every: int | None = None,
    ) -> None:
        if images_every is None:
            images_every = max(_FEWEST_WINDOWS, run.windows // _MOST_PICTURES)
        self._run = run
        self._points: list[Point] = []
        self._violations, self._rewards = 0, (0.0, 0)  # the sum and number of the measured
        self._warned = False
        self._timings = TimingLog(folder)
        views: list[View] = [ProgressTable(folder / PROGRESS, columns(run))]
        views.append(EventFile(folder, run, images_every))
        self._behind = dict.fromkeys(views, True)
        for record in past:
            self._note(record)
        self._show()

    def window(self, record: WindowRecord, timing: Timing) -> None:
        """Show one window and keep its wall times; one that is known already is left out."""
        if record.window < len(self._points):
            return
        self._try(self._timings.add, record.window, timing)
        self._note(record)
        self._show()

    def close(self) -> None:
        """Write the last images, and mark a run that has all its windows as complete."""
        for view, behind in self._behind.items():
            if not behind:
                self._try(view.end, self._points)
            view.close()

    def _note(self, record: WindowRecord) -> None:
        values = record.scalars(self._run.space)
        timing = self._timings.known.get(record.window)
        if timing is not None:
            values |= scalars(timing)
        self._violations += record.score.violation
        values[VIOLATIONS] = float(self._violations)
        total, number = self._rewards
        if record.measured:
            total, number = self._rewards = total + record.score.reward, number + 1
        if number:
            values[MEAN] = total / number
        self._points.append(Point(record, values, timing.ended_at_s if timing else None))

    def _show(self) -> None:
        """Show the last window, and all windows where a view is behind."""
        for view, behind in self._behind.items():
            self._behind[view] = not self._try(self._write, view, behind)

    def _write(self, view: View, behind: bool) -> None:
        if not behind:
            view.add(self._points)
            return
        view.begin()
        for end in range(1, len(self._points) + 1):
            view.add(self._points[:end])

    def _try(self, write: Callable[..., None], *arguments: Any) -> bool:
        """Whether it could be written."""
        try:
            write(*arguments)
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"tracking: {error}; the run goes on, TensorBoard and {PROGRESS} lag behind",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return False
        return True


class ProgressTable:
    """progress.csv: fixed columns, the first is `window`, a line a window."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path, self._columns = path, columns

    def begin(self) -> None:
        """See `View`."""
        self._write("w", self._columns)

    def add(self, points: Sequence[Point]) -> None:
        """See `View`."""
        values = {**texts(points[-1].record), **points[-1].values}
        self._write("r+", [values.get(name, "") for name in self._columns])

    def end(self, points: Sequence[Point]) -> None:
        """See `View`."""

    def close(self) -> None:
        """See `View`."""

    def _write(self, mode: str, row: Sequence[object]) -> None:
        # A file that somebody deleted meanwhile is not made again: it would lack its beginning.
        with self._path.open(mode, newline="", encoding="utf-8") as file:
            file.seek(0, 2)
            csv.writer(file, lineterminator="\n").writerow(row)


class EventFile:
    """The event file of a run.

    All scalars of a window are values of one event, so that a window is in the file as a whole or
    not at all.
    """

    def __init__(self, folder: Path, run: RunFacts, images_every: int) -> None:
        self._folder, self._run, self._images_every = folder, run, images_every
        self._writer: Any = None
        self._path = folder
        self._drawn = -1

    def begin(self) -> None:
        """See `View`."""
        from torch.utils.tensorboard import SummaryWriter  # slow to load

        self.close()
        for path in self._folder.glob(EVENTS):
            path.unlink()
        self._drawn = -1
        with self._written():
            # A TensorBoard that is open forgets what it has read of the file that was deleted.
            self._writer = SummaryWriter(str(self._folder), purge_step=0)
            (self._path,) = self._folder.glob(EVENTS)
            for summary in hparams.row(self._run.common, self._run.hyperparameters, HEADLINES):
                self._writer.file_writer.add_summary(summary, 0)
            layout = {
                title: {name: ["Multiline", list(tags)] for name, tags in charts.items()}
                for title, charts in custom_layout(self._run).items()
            }
            self._writer.add_custom_scalars(layout)

    def add(self, points: Sequence[Point]) -> None:
        """See `View`."""
        point = points[-1]
        values = [Summary.Value(tag=t, simple_value=v) for t, v in point.values.items()]
        with self._written():
            self._add(values, point)
            if self._images_every and len(points) % self._images_every == 0:
                self._draw(points)

    def end(self, points: Sequence[Point]) -> None:
        """See `View`."""
        with self._written():
            if self._images_every and points and self._drawn < len(points):
                self._draw(points)
            if len(points) >= self._run.windows:
                self._writer.file_writer.add_summary(hparams.end(), max(len(points) - 1, 0))

    def close(self) -> None:
        """See `View`."""
        with contextlib.suppress(OSError):
            if self._writer is not None:
                self._writer.close()
        self._writer = None

    def _add(self, values: Sequence[Any], point: Point) -> None:
        summary = Summary(value=values)
        self._writer.file_writer.add_summary(summary, point.record.window, point.ended_at_s)

    def _draw(self, points: Sequence[Point]) -> None:
        """The images of the newest window."""
        self._drawn = len(points)
        record = points[-1].record
        drawn = {"frontier/short_long_p95": run_pictures.frontier([p.values for p in points])}
        if record.traffic is not None:
            partition = run_pictures.partition(record.served.cuts, record.traffic)
            drawn["partition/over_lengths"] = partition
        size = {"width": run_pictures.WIDTH_PX, "height": run_pictures.HEIGHT_PX, "colorspace": 4}
        images = [
            Summary.Value(tag=tag, image=Summary.Image(encoded_image_string=png, **size))
            for tag, png in drawn.items()
            if png is not None
        ]
        self._add(images, points[-1])

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """All that is added inside is in the file at the end, or an OSError says why not.

        The writer has a thread that dies of a full disk and hands its error to the next call: the
        error is raised here, and is not printed by the thread, too.  A writer that failed is of
        no use any more.
        """
        known = set(threading.enumerate())
        before, threading.excepthook = threading.excepthook, lambda _: None
        try:
            if self._writer is not None and not self._path.exists():
                raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(self._path))
            yield
            self._writer.flush()
        except OSError:
            with contextlib.suppress(OSError):
                if self._writer is not None:
                    self._writer.file_writer.event_writer.close()  # waits for its thread's end
            for thread in set(threading.enumerate()) - known:
                thread.join(1.0)
            self._writer = None
            raise
        finally:
            threading.excepthook = before
