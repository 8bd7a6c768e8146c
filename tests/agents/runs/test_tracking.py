from __future__ import annotations

import dataclasses
import math
import re
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from agents.core.window import WindowRecord
from agents.runs.tensorboard.tags import HEADLINES
from agents.runs.tensorboard.tracker import PROGRESS, Tracker
from agents.runs.timing import TIMING as TIMING_FILE
from agents.runs.timing import read_timings
from ewsjf_env.measure.records import WindowMetrics
from tests.agents.curves import curves, event_file, read, table
from tests.agents.toys import MIXED_SPACE
from tests.agents.windows import TIMING, facts, records

WINDOWS = 6


def track(
    folder: Path, agent: str = "random", first: int = 0, end: int = WINDOWS, **settings: Any
) -> None:
    """Track windows [first, end) of a run; those before are what windows.jsonl holds."""
    folder.mkdir(exist_ok=True)
    lines = records(agent, WINDOWS)
    tracker = Tracker(folder, facts(agent, WINDOWS), lines[:first], **settings)
    for line in lines[first:end]:
        tracker.window(line, TIMING)
    tracker.close()


def changed(line: WindowRecord, **parts: Any) -> WindowRecord:
    return dataclasses.replace(line, **parts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    track(folder)
    return folder


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """The kernel refuses to make any file of this process larger, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_one_event_file_with_a_point_a_window(whole: Path) -> None:
    files = {path.name for path in whole.iterdir()}
    assert files == {event_file(whole).name, PROGRESS, TIMING_FILE}
    points = curves(whole)
    assert [step for step, _ in points["reward/total"]] == list(range(WINDOWS))
    assert {len({step for step, _ in curve}) - len(curve) for curve in points.values()} == {0}
    line = records("random", WINDOWS)[2]
    assert points["latency/ttft_short_p95_ms"][2][1] == pytest.approx(
        1000 * line.metrics.ttft_short_p95_s
    )
    assert points["parameters/q_max"][2] == (2, line.served.values["q_max"])
    assert points["partition/cut_1"][2] == (2, line.served.cuts[1])
    (first, *_) = read(whole).Scalars("time/ask_ms")
    assert (first.value, first.wall_time) == (250.0, TIMING.ended_at_s)


def test_a_metric_is_shown_by_its_field_alone(whole: Path) -> None:
    """The field of `WindowMetrics` is the only place that names it; see also test_run_dir.py."""
    points, (row, *_) = curves(whole), table(whole)
    line = records("random", WINDOWS)[0]
    shown = {f.name: f.metadata for f in dataclasses.fields(WindowMetrics) if f.metadata.get("tag")}
    assert len(shown) >= 28
    assert line.metrics is not None
    assert line.metrics.to_dict().keys() == {f.name for f in dataclasses.fields(WindowMetrics)}
    for name, how in shown.items():
        value = getattr(line.metrics, name)
        if value is None or math.isnan(value):
            assert row[how["tag"]] == ""
        else:
            assert float(row[how["tag"]]) == pytest.approx(value * how["scale"])
            assert points[how["tag"]][0][1] == pytest.approx(value * how["scale"], rel=1e-5)


def test_wall_times_come_back_after_a_resume(whole: Path, tmp_path: Path) -> None:
    track(tmp_path, end=3)
    track(tmp_path, first=3)
    assert read_timings(tmp_path) == dict.fromkeys(range(WINDOWS), TIMING)
    (tmp_path / TIMING_FILE).write_text('{"window": 0}\n[7]\nhalf')
    track(tmp_path, first=WINDOWS - 1)
    assert read_timings(tmp_path) == {WINDOWS - 1: TIMING}
    assert [event.step for event in read(tmp_path).Scalars("time/ask_ms")] == [WINDOWS - 1]
    assert curves(tmp_path) == curves(whole)


def test_totals_are_those_of_the_run_so_far(whole: Path) -> None:
    lines, points = records("random", WINDOWS), curves(whole)
    assert any(line.score.violation for line in lines)
    for window in range(WINDOWS):
        before = lines[: window + 1]
        total = sum(line.score.violation for line in before)
        assert points["safety/violations_total"][window] == (window, total)
        mean = sum(line.score.reward for line in before) / len(before)
        assert points["reward/online_mean"][window][1] == pytest.approx(mean, rel=1e-5)


def test_all_agents_have_the_same_tags_and_columns(whole: Path, tmp_path: Path) -> None:
    track(tmp_path, "bayes")
    other = {tag for tag in curves(tmp_path) if not tag.startswith("bo/")}
    assert "bo/changes" in curves(tmp_path)
    assert other == set(curves(whole))
    assert list(table(tmp_path)[0]) == list(table(whole)[0])
    assert {"safety/rollback", "safety/breach", "safety/radius", "queue/oldest_age_s"} <= other


def test_every_column_is_a_tag_and_holds_its_points(whole: Path) -> None:
    points, rows = curves(whole), table(whole)
    texts = {"window", "episode", "trace", "trace_seed", "rate_per_s", "failure"}
    assert [row["window"] for row in rows] == [str(window) for window in range(WINDOWS)]
    for name in set(rows[0]) - texts:
        filled = [(int(row["window"]), float(row[name])) for row in rows if row[name]]
        expected = [(step, pytest.approx(value, rel=1e-5)) for step, value in points.get(name, [])]
        assert filled == expected, name


def test_hparams_row_is_there_before_the_first_window(tmp_path: Path) -> None:
    Tracker(tmp_path, facts("bayes", WINDOWS))
    content = read(tmp_path).SummaryMetadata
    start = hparams_metadata.parse_session_start_info_plugin_data(
        content(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    )
    assert start.hparams["agent"].string_value == "bayes"
    assert start.hparams["seed"].number_value == 3
    assert start.hparams["surrogate.max_windows"].number_value == 300
    assert start.hparams["drift.enabled"].bool_value is True


def test_hparams_metrics_and_charts_name_real_curves(whole: Path) -> None:
    seen, tags = read(whole), set(curves(whole)) | {"time/ask_ms"}
    experiment = hparams_metadata.parse_experiment_plugin_data(
        seen.SummaryMetadata(hparams_metadata.EXPERIMENT_TAG).plugin_data.content
    )
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics == list(HEADLINES)
    assert set(metrics) <= tags
    (config,) = seen.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0])
    titles = [category.title for category in layout.category]
    assert titles == ["Latency", "Throughput", "Reward", "Safety", "Partition", "Parameters"]
    patterns = [tag for c in layout.category for chart in c.chart for tag in chart.multiline.tag]
    unmatched = [p for p in patterns if not any(re.match(p, tag) for tag in tags)]
    assert unmatched == []


def test_a_row_is_complete_only_with_all_windows(whole: Path, tmp_path: Path) -> None:
    end = hparams_metadata.SESSION_END_INFO_TAG
    assert end in read(whole).Tags()["tensors"]
    track(tmp_path, end=4)
    assert end not in read(tmp_path).Tags()["tensors"]
    track(tmp_path, first=4)
    track(tmp_path, first=WINDOWS)
    assert len(read(tmp_path).Tensors(end)) == 1


def test_images_every_few_windows_and_at_the_end(tmp_path: Path) -> None:
    track(tmp_path, images_every=4)
    seen = read(tmp_path)
    for tag in ("frontier/short_long_p95", "partition/over_lengths"):
        images = seen.Images(tag)
        assert [image.step for image in images] == [3, 5]
        assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in images)
        assert all(len(image.encoded_image_string) < 60_000 for image in images)
    track(tmp_path, first=WINDOWS, images_every=4)  # nothing new: nothing drawn
    assert [image.step for image in read(tmp_path).Images("frontier/short_long_p95")] == [3, 5]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_a_kill_leaves_the_resumed_run_has_each_window_once(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any beginning of both files, and any number of windows in windows.jsonl."""
    folder = tmp_path_factory.mktemp("killed")
    for path in (event_file(whole), whole / PROGRESS, whole / TIMING_FILE):
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)), label=path.name)
        (folder / path.name).write_bytes(content[:cut])
    track(folder, first=data.draw(st.integers(0, WINDOWS), label="past"), images_every=0)
    assert len(list(folder.iterdir())) == 3
    assert curves(folder) == curves(whole)
    assert table(folder) == table(whole)
    times = (folder / TIMING_FILE).read_bytes()
    assert times in (b"", times[: times.rfind(b"\n") + 1])


def test_what_others_left_is_replaced(whole: Path, tmp_path: Path) -> None:
    """A machine that lost power may leave blocks of zeros; an older version, another file."""
    for name in (event_file(whole).name, PROGRESS, "events.out.tfevents.run"):
        (tmp_path / name).write_bytes(event_file(whole).read_bytes() + bytes(5000))
    track(tmp_path, first=WINDOWS)
    assert curves(tmp_path) == curves(whole)
    assert table(tmp_path) == table(whole)


def test_a_window_shown_twice_is_written_once(whole: Path, tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, facts("random", WINDOWS), images_every=0)
    for line in records("random", WINDOWS):
        tracker.window(line, TIMING)
        tracker.window(line, TIMING)
    assert curves(tmp_path) == curves(whole)
    assert table(tmp_path) == table(whole)


def test_a_full_disk_is_warned_of_once_and_made_up_for(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = records("random", WINDOWS)
    tracker = Tracker(tmp_path, facts("random", WINDOWS), images_every=0)
    tracker.window(lines[0], TIMING)
    with room_for(event_file(tmp_path).stat().st_size + 1000):
        with pytest.warns(RuntimeWarning, match="tracking: .*the run goes on") as seen:
            tracker.window(lines[1], TIMING)
            tracker.window(lines[2], TIMING)
        assert len(seen) == 1
    for line in lines[3:]:
        tracker.window(line, TIMING)
    tracker.close()
    assert curves(tmp_path) == curves(whole)
    assert table(tmp_path) == table(whole)
    assert capfd.readouterr().err == ""  # nor does the writer's thread say anything


@pytest.mark.parametrize("room", [0, 10, 100, 500])
def test_no_room_for_wall_times(whole: Path, tmp_path: Path, room: int) -> None:
    lines = records("random", WINDOWS)
    with pytest.warns(RuntimeWarning, match="tracking"):
        with room_for(room):
            tracker = Tracker(tmp_path, facts("random", WINDOWS), images_every=0)
            for line in lines[:-1]:
                tracker.window(line, TIMING)
        tracker.window(lines[-1], TIMING)
    tracker.close()
    assert read_timings(tmp_path) == dict.fromkeys(range(WINDOWS), TIMING)
    assert curves(tmp_path) == curves(whole)
    assert table(tmp_path) == table(whole)


def test_a_run_starts_on_a_full_disk_and_its_files_come_on_resume(
    whole: Path, tmp_path: Path
) -> None:
    with room_for(0), pytest.warns(RuntimeWarning, match="tracking"):
        track(tmp_path, images_every=0)
    track(tmp_path, first=WINDOWS)
    assert curves(tmp_path) == curves(whole)
    assert table(tmp_path) == table(whole)


def test_a_deleted_file_is_not_continued_without_its_beginning(whole: Path, tmp_path: Path) -> None:
    lines = records("random", WINDOWS)
    tracker = Tracker(tmp_path, facts("random", WINDOWS), images_every=0)
    tracker.window(lines[0], TIMING)
    event_file(tmp_path).unlink()
    (tmp_path / PROGRESS).unlink()
    with pytest.warns(RuntimeWarning, match="No such file"):
        tracker.window(lines[1], TIMING)
    assert [path.name for path in tmp_path.iterdir()] == [TIMING_FILE]
    for line in lines[2:]:
        tracker.window(line, TIMING)
    tracker.close()
    assert curves(tmp_path) == curves(whole)
    assert table(tmp_path) == table(whole)


def test_a_failed_window_and_one_without_guard_are_shown(tmp_path: Path) -> None:
    whole_line = records("random", 1)[0]
    served = {"failure": "EngineError: gone\nfor good", "cuts": ()}
    score = {"margins": {}, "reward": -5.0, "terms": {"failure": -5.0}}
    failed = changed(
        whole_line,
        window=1,
        served=dataclasses.replace(whole_line.served, **served),
        score=dataclasses.replace(whole_line.score, **score),
        **dict.fromkeys(("metrics", "reference", "traffic", "guard")),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker = Tracker(tmp_path, facts("random", 2), images_every=1)
        tracker.window(changed(whole_line, guard=None), TIMING)
        tracker.window(failed, TIMING)
        tracker.close()
    points = curves(tmp_path)
    assert points["safety/failure"] == [(0, 0.0), (1, 1.0)]
    assert points["safety/rollback"] == [(0, 0.0), (1, 0.0)]
    assert points["reward/online_mean"][1][1] == pytest.approx(whole_line.score.reward, rel=1e-5)
    assert "safety/radius" not in points
    assert [row["failure"] for row in table(tmp_path)] == ["", "EngineError: gone for good"]


def test_numbers_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    line = records("random", 1)[0]
    assert line.metrics is not None
    line = changed(
        line,
        metrics=dataclasses.replace(line.metrics, ttft_long_p95_s=math.nan),
        score=dataclasses.replace(line.score, margins={"wait_max_s_vs_reference": math.nan}),
    )
    Tracker(tmp_path, facts("random", 2)).window(line, TIMING)
    assert not {"latency/ttft_long_p95_ms", "safety/margin_wait_max_s_vs_reference"} & set(
        curves(tmp_path)
    )
    assert table(tmp_path)[0]["latency/ttft_long_p95_ms"] == ""


def test_a_choice_among_words_is_its_place_in_the_list(tmp_path: Path) -> None:
    line = records("random", 1)[0]
    line = changed(
        line,
        served=dataclasses.replace(line.served, values={"mode": "b"}),
        plan=dataclasses.replace(line.plan, incumbent={"mode": "a"}),
    )
    run = dataclasses.replace(facts("random", 1), space=MIXED_SPACE)
    Tracker(tmp_path, run).window(line, TIMING)
    points = curves(tmp_path)
    assert (points["parameters/mode"], points["incumbent/mode"]) == ([(0, 1.0)], [(0, 0.0)])
