"""The run's row of TensorBoard's page "HParams", as summaries for the run's own event file.

`SummaryWriter.add_hparams` would make a further run for the row: here the row belongs to the run
whose curves it names, as in Stable-Baselines3's logger.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from agents.runs.tensorboard.tags import Setting


def row(
    common: Mapping[str, Setting], own: Mapping[str, Setting], metrics: Sequence[str]
) -> list[Any]:
    """The summaries that begin the row.

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
        _summary(hparams_metadata.EXPERIMENT_TAG, experiment=experiment),
        _summary(hparams_metadata.SESSION_START_INFO_TAG, session_start_info=start),
    ]


def end() -> Any:
    """The summary that marks the row as complete."""
    info = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    return _summary(hparams_metadata.SESSION_END_INFO_TAG, session_end_info=info)


def _summary(tag: str, **content: Any) -> Any:
    data = plugin_data_pb2.HParamsPluginData(**content)
    metadata = hparams_metadata.create_summary_metadata(data)
    value = Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)
    return Summary(value=[value])


def _type(value: Setting) -> Any:
    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64
