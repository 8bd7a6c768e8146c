"""How does a run get into TensorBoard and progress.csv?

`windows.jsonl` is the truth; both files here only show it, for every agent in the same way:

    events.out.tfevents.run   one file a run, also after kills and resumes: a row of the page
                              "HParams" and the page "Custom Scalars" at its beginning, then
                              scalars by window, and images every few windows
    progress.csv              the same scalars, one line a window

Each window is in each file once.  A file that cannot be written (a full disk) is warned of once;
the run goes on, and what is missing is written when there is room again, or on resume.

Stable-Baselines3's logger, which would write both, does not serve: it starts its CSV anew, writes
the whole of it again for every new column, and opens another event file in every process.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from agents.core.files import AppendFile
from agents.runs import pictures as run_pictures
from agents.runs.event_file import EventFile, custom_page, hparams_end, hparams_row, picture, scalar
from agents.runs.tags import HEADLINES, RunFacts, Timing, columns, custom_layout, scalars

PROGRESS = "progress.csv"
_FEWEST_WINDOWS, _MOST_PICTURES = 10, 20


class Tracker:
    """Writes what can be watched of a run.

    Args:
        folder: of the run; exists.
        run: what is known before the first window.
        past: the lines of windows.jsonl so far, in their order: empty for a new run.  Windows
            that were not tracked before a kill are caught up on, tracked ones beyond the last
            line are dropped.
        images_every: an image every so many windows, and at the end; None: about 20 in a run,
            and not more than one in ten windows; 0: none.

    Raises:
        OSError: files of an earlier process cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        run: RunFacts,
        past: Iterable[Mapping[str, Any]] = (),
        images_every: int | None = None,
    ) -> None:
        if images_every is None:
            images_every = max(_FEWEST_WINDOWS, run.windows // _MOST_PICTURES)
        self._run, self._images_every = run, images_every
        self._history: dict[int, dict[str, float]] = {}
        self._undrawn: Mapping[str, Any] | None = None
        self._warned = False
        records = list(past)
        keep = records[-1]["window"] + 1 if records else 0
        once = hparams_row(run.common, run.hyperparameters, HEADLINES)
        once.append(custom_page(custom_layout(run)))
        self._events = EventFile(folder, once, keep)
        self._table = ProgressTable(folder / PROGRESS, columns(run), keep)
        self._try(self._events.begin)
        self._try(self._table.begin)
        for record in records:
            self._show(record, None)

    def window(self, record: Mapping[str, Any], timing: Timing) -> None:
        """Show one window; one whose number is not above all before is known already.

        Args:
            record: its line of windows.jsonl.
            timing: what it took.
        """
        if record["window"] in self._history:
            return
        self._show(record, timing)
        self._undrawn = record
        if self._images_every and (record["window"] + 1) % self._images_every == 0:
            self._draw()

    def close(self) -> None:
        """Write the last images, and mark a run that has all its windows as complete."""
        if self._images_every:
            self._draw()
        last = max(self._history, default=-1)
        if last + 1 >= self._run.windows:
            self._try(lambda: self._events.add_once(last, [hparams_end()]))

    def _show(self, record: Mapping[str, Any], timing: Timing | None) -> None:
        window = record["window"]
        values = scalars(record, timing, self._run.space)
        self._history[window] = values
        values["safety/violations_total"] = sum(
            past["safety/violation"] for past in self._history.values()
        )
        measured = [v["reward/total"] for v in self._history.values() if _measured(v)]
        if measured:
            values["reward/online_mean"] = sum(measured) / len(measured)
        if window > self._events.last:
            points = [scalar(tag, value) for tag, value in values.items()]
            self._try(lambda: self._events.add(window, points))
        if window > self._table.last:
            self._try(lambda: self._table.add(window, _text(record) | values))

    def _draw(self) -> None:
        """The images of the newest window, unless they are drawn."""
        record, self._undrawn = self._undrawn, None
        if record is None:
            return
        pictures = {"frontier/short_long_p95": run_pictures.frontier(self._history)}
        if record["traffic"] is not None:
            pictures["partition/over_lengths"] = run_pictures.partition(
                record["cuts"] or (), record["traffic"]
            )
        size = run_pictures.WIDTH_PX, run_pictures.HEIGHT_PX
        values = [picture(tag, png, *size) for tag, png in pictures.items() if png is not None]
        self._try(lambda: self._events.add(record["window"], values))

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"tracking: {error}; the run goes on, TensorBoard and {PROGRESS} lag behind",
                    RuntimeWarning,
                    stacklevel=2,
                )


class ProgressTable:
    """progress.csv: fixed columns, a line a window.

    Args:
        path: of the file.
        columns: of a new file, the first is `window`; an old one keeps its own.
        keep: lines of windows below this are kept, all others of an old file dropped.

    Raises:
        OSError: an old file cannot be read.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], keep: int) -> None:
        self.last = -1
        self._columns, self._keep = list(columns), keep
        self._file = AppendFile(path, self._whole)

    def begin(self) -> None:
        """Write the names of the columns, if it is new; cut what an old file does not keep.

        Raises:
            OSError: see `AppendFile.append`.
        """
        self._file.append(self._head())

    def add(self, window: int, values: Mapping[str, Any]) -> None:
        """Append the line of a window, later than all before; unknown names are left out.

        Raises:
            OSError: see `AppendFile.append`.
        """
        self.last = window
        line = [{"window": window, **values}.get(name, "") for name in self._columns]
        self._file.append(self._head() + _csv_line(line))

    def _head(self) -> bytes:
        return _csv_line(self._columns) if self._file.empty else b""

    def _whole(self, content: bytes) -> int:
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        if self._keep == 0 or not lines or not lines[0].startswith(b"window,"):
            return 0
        try:
            self._columns = lines[0].decode().rstrip("\n").split(",")
        except UnicodeDecodeError:
            return 0
        end = len(lines[0])
        for line in lines[1:]:
            number = line.split(b",", 1)[0]
            if not number.isdigit() or int(number) >= self._keep:
                break
            self.last = int(number)
            end += len(line)
        return end


def _csv_line(fields: Iterable[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue().encode()


def _measured(values: Mapping[str, float]) -> bool:
    return not values["safety/void"] and not values["safety/failure"] and "reward/total" in values


def _text(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a window is not a point of a curve."""
    trace = record["trace"]
    return {
        "episode": record["episode"],
        "trace": trace["name"],
        "trace_seed": trace["seed"],
        "rate_per_s": trace["rate_per_s"],
        # On one line, whatever an engine says: a half line must be recognisable.
        "failure": " ".join((record["failure"] or "").split()),
    }
