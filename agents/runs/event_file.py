"""How is everything of a run kept in one TensorBoard event file that survives kills and resumes?

TensorFlow's record format, one record an event:

    uint64 length | uint32 masked CRC-32C of it | data | uint32 masked CRC-32C of the data

All scalars of a window are values of one event, so a window is in the file as a whole or not at
all.  The writers of torch and Stable-Baselines3 do not serve here: each process would start
another file, one event for each scalar and from a thread, where a kill leaves half a window and a
full disk an exception in the next unrelated call.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from agents.core.files import AppendFile

EVENT_FILE = "events.out.tfevents.run"
"""A fixed name: a resumed run finds it; TensorBoard looks for `tfevents` only."""

Setting = bool | float | str
Layout = Mapping[str, Mapping[str, Sequence[str]]]

_HEAD_EVENTS = 2  # the version of the format, then what is written once a run
_HEAD, _CRC = struct.Struct("<QI"), struct.Struct("<I")


class EventFile:
    """The event file of a run, by window number.

    Args:
        folder: of the run; exists.
        once: summary values that belong to the run, written to a new file only.
        keep: events of windows below this are kept, all others of an old file dropped.

    Raises:
        OSError: an old file cannot be read.
    """

    def __init__(self, folder: Path, once: Iterable[Any], keep: int) -> None:
        self.last = -1
        self._tags: set[str] = set()
        self._keep = keep
        self._file = AppendFile(folder / EVENT_FILE, self._whole)
        self._once = list(once)

    def begin(self) -> None:
        """Write what belongs to the run, if it is new; cut what an old file does not keep.

        Raises:
            OSError: see `AppendFile.append`.
        """
        self._file.append(self._head())

    def add(self, window: int, values: Iterable[Any]) -> None:
        """Append the summary values of a window, later than all before.

        Raises:
            OSError: see `AppendFile.append`.
        """
        self.last = window
        self._file.append(self._head() + _record(_event(window, values)))

    def add_once(self, window: int, values: Iterable[Any]) -> None:
        """Append values of the run itself, unless one with the same tag is there.

        Raises:
            OSError: see `AppendFile.append`.
        """
        fresh = [value for value in values if value.tag not in self._tags]
        self._tags |= {value.tag for value in fresh}
        if fresh:
            self._file.append(self._head() + _record(_event(window, fresh)))

    def _head(self) -> bytes:
        if not self._file.empty:
            return b""
        self._tags |= {value.tag for value in self._once}
        version = Event(file_version="brain.Event:2", wall_time=time.time())
        return _record(version) + _record(_event(0, self._once))

    def _whole(self, content: bytes) -> int:
        end, tags, last = 0, set(), -1
        found = 0
        for found, (event, after) in enumerate(read_events(content), 1):
            if found > _HEAD_EVENTS:
                if event.step >= self._keep:
                    break
                last = event.step
            tags |= {value.tag for value in event.summary.value}
            end = after
        if found < _HEAD_EVENTS or self._keep == 0:
            return 0
        self.last, self._tags = last, tags
        return end


def read_events(content: bytes) -> Iterator[tuple[Any, int]]:
    """The whole events at the beginning of a file, each with the position after it."""
    at = 0
    while at + _HEAD.size <= len(content):
        length, head_crc = _HEAD.unpack_from(content, at)
        data_at = at + _HEAD.size
        data = content[data_at : data_at + length]
        after = data_at + length + _CRC.size
        if head_crc != masked_crc32c(content[at : at + 8]) or after > len(content):
            return
        # The sum over all data is slow in Python; only the last record can be half written.
        if after == len(content) and _CRC.unpack_from(content, after - 4)[0] != masked_crc32c(data):
            return
        try:
            event = Event.FromString(data)
        except DecodeError:
            return
        yield event, after
        at = after


def scalar(tag: str, value: float) -> Any:
    """One point of a curve."""
    return Summary.Value(tag=tag, simple_value=value)


def picture(tag: str, png: bytes, width: int, height: int) -> Any:
    """An image; sizes in pixels."""
    image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
    return Summary.Value(tag=tag, image=image)


def custom_page(layout: Layout) -> Any:
    """The page "Custom Scalars": category -> chart -> regular expressions of its tags."""
    message = layout_pb2.Layout()
    for title, charts in layout.items():
        category = message.category.add(title=title)
        for name, tags in charts.items():
            category.chart.add(title=name, multiline=layout_pb2.MultilineChartContent(tag=tags))
    return Summary.Value(
        tag=layout_metadata.CONFIG_SUMMARY_TAG,
        metadata=layout_metadata.create_summary_metadata(),
        tensor=TensorProto(
            dtype=DT_STRING,
            string_val=[message.SerializeToString()],
            tensor_shape=TensorShapeProto(),
        ),
    )


def hparams_row(
    common: Mapping[str, Setting], own: Mapping[str, Setting], metrics: Sequence[str]
) -> list[Any]:
    """The run's row of the page "HParams".

    TensorBoard takes the columns of the page from any one run of its folder: settings that only
    other agents have get none.

    Args:
        common: what all runs have; shown first.
        own: the other settings, flat; `common` wins where a name is in both.
        metrics: tags of scalars; the row shows their last value.
    """
    settings = {**own, **common}
    columns = [
        # Columns that "differ" come first, and only the first few are shown unasked.
        api_pb2.HParamInfo(name=name, type=_type(value), differs=name in common)
        for name, value in settings.items()
    ]
    experiment = api_pb2.Experiment(
        hparam_infos=columns,
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics],
    )
    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in settings.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    return [
        _hparams(hparams_metadata.EXPERIMENT_TAG, experiment=experiment),
        _hparams(hparams_metadata.SESSION_START_INFO_TAG, session_start_info=start),
    ]


def hparams_end() -> Any:
    """Marks the run's row as complete."""
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    return _hparams(hparams_metadata.SESSION_END_INFO_TAG, session_end_info=end)


def _hparams(tag: str, **content: Any) -> Any:
    data = plugin_data_pb2.HParamsPluginData(**content)
    return Summary.Value(
        tag=tag,
        metadata=hparams_metadata.create_summary_metadata(data),
        tensor=hparams_metadata.NULL_TENSOR,
    )


def _type(value: Setting) -> Any:
    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64


def _event(window: int, values: Iterable[Any]) -> Any:
    return Event(step=window, wall_time=time.time(), summary=Summary(value=list(values)))


def _record(event: Any) -> bytes:
    data: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    crcs = _CRC.pack(masked_crc32c(length)), _CRC.pack(masked_crc32c(data))
    return length + crcs[0] + data + crcs[1]
