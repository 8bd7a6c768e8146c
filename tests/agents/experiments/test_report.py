"""The report shows who loses, on how many seeds, and never claims what it cannot know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from agents.experiments.policies.plots import frontier
from agents.experiments.policies.report import WORSE, console_table, markdown
from agents.experiments.policies.summary import summarise
from tests.agents.experiments.evaluations import run_record

META = {
    "duration_s": 100.0,
    "seeds": 3,
    "kv_blocks": 4000,
    "engine": {
        "engine": "compiled",
        "latency": "some_machine",
        "max_num_batched_tokens": 2048,
        "max_num_seqs": 256,
        "block_tokens": 16,
        "prefix_caching": False,
        "async_scheduling": True,
    },
    "engine_name": "compiled some_machine, steps of 2048 tokens and 256 requests",
    "capacity_requests_per_s": {"chat": 2.0},
    "versions": {"vllm": "0.32.0"},
}
NOTES = {"achieved_rate_per_s": 2.5, "capped_prompts": 0}
# Short and long TTFT in seconds; seed s adds s: `ewsjf` wins short prompts and loses long ones.
WAITS = {"fcfs": (10.0, 12.0), "ewsjf": (1.0, 18.0), "sjf_total": (0.5, 30.0)}


def make_runs(seeds: int = 3, **changes: Any) -> list[dict[str, Any]]:
    return [
        run_record(policy, seed, (short + seed, long + seed), **changes)
        for seed in range(seeds)
        for policy, (short, long) in WAITS.items()
    ]


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a report, a row as cells by title; without the first, the rates."""
    return all_tables(text)[1:]


def all_tables(text: str) -> list[list[dict[str, str]]]:
    found: list[list[dict[str, str]]] = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


def summary_of(runs: list[dict[str, Any]], policy: str, metric: str) -> dict[str, Any]:
    (entry,) = (
        e
        for e in summarise(runs)
        if (e["policy"], e["metric"], e["part"]) == (policy, metric, "metrics")
    )
    return entry


def test_summary_known_answers() -> None:
    entry = summary_of(make_runs(), "ewsjf", "ttft_short_mean_s")
    assert entry["mean"] == pytest.approx(2.0)  # 1, 2, 3
    assert entry["ratio_to_fcfs"] == pytest.approx(2.0 / 11.0)
    assert entry["difference_to_fcfs"] == pytest.approx(-9.0)
    assert entry["difference_ci95"] == pytest.approx([-9.0, -9.0])  # the same on every seed
    assert entry["ci95"][0] < 2.0 < entry["ci95"][1]
    assert entry["seeds"] == 3
    assert (entry["workload"], entry["load"], entry["rate_per_s"]) == ("chat", 1.3, 2.6)


def test_summary_without_fcfs_or_interval_says_null() -> None:
    runs = [run for run in make_runs(seeds=1) if run["policy"] != "fcfs"]
    entry = summary_of(runs, "ewsjf", "ttft_mean_s")
    assert entry["mean"] == pytest.approx(9.5)
    assert entry["ci95"] is None
    assert entry["ratio_to_fcfs"] is None
    assert entry["difference_to_fcfs"] is None
    assert "NaN" not in json.dumps(summarise(runs))


def test_summary_covers_both_parts_and_compares_loads_apart() -> None:
    runs = make_runs() + make_runs(load=0.7, rate_per_s=1.4)
    entries = summarise(runs)
    assert {e["part"] for e in entries} == {"metrics", "drained"}
    assert {(e["load"], e["rate_per_s"]) for e in entries} == {(1.3, 2.6), (0.7, 1.4)}
    assert not {"exact", "scheduler_us_per_step"} & {e["metric"] for e in entries}


def test_rows_are_sorted_by_mean_ttft_with_the_best_in_bold() -> None:
    main = tables(markdown(make_runs(), META))[0]
    assert [row["policy"] for row in main] == ["ewsjf", "fcfs", "sjf_total (oracle)"]
    assert main[0]["TTFT mean s"] == "**10.50**"
    assert main[0]["short mean s"] == "**2.00**"
    assert main[1]["long p95 s"].startswith("**")
    assert "**" not in "".join(main[2].values())  # an oracle wins nothing


def test_a_shared_best_is_not_bold() -> None:
    runs = [run_record(policy, 0, (2.0, 4.0)) for policy in ("fcfs", "sjf", "hrrn")]
    runs += [run_record("boost", 0, (2.0, 3.999))]  # rounds to the same
    assert "**" not in "".join("".join(row.values()) for row in tables(markdown(runs, META))[0])


def test_rates_and_loads_stand_side_by_side_with_the_engine() -> None:
    """A rate alone does not say which load it is, and a capacity not of which machine."""
    (row,) = all_tables(markdown(make_runs(), META))[0]
    assert row == {
        "traffic": "chat",
        "asked req/s": "2.6",
        "arrived req/s": "2.5",
        "FCFS capacity req/s": "2",
        "load asked": "1.30",
        "load arrived": "1.25",
        "engine": META["engine_name"],
    }
    lines = console_table(make_runs(), META).splitlines()
    assert lines[2].split() == [
        "chat",
        "2.6",
        "2.5",
        "2",
        "1.30",
        "1.25",
        *META["engine_name"].split(),
    ]
    unknown = markdown(make_runs(), {**META, "capacity_requests_per_s": {}})
    assert all_tables(unknown)[0][0]["load arrived"] == "-"


def test_every_column_is_explained() -> None:
    text = markdown(make_runs(), META)
    legend = text[text.index("What the columns mean:") :]
    for title in tables(text)[0][0]:
        name = title.removesuffix(" s").split()[0]  # `TTFT mean s` is explained under `TTFT`
        assert name in ("policy", "p99") or name in legend


def test_what_loses_to_fcfs_is_marked() -> None:
    ours, fcfs, oracle = tables(markdown(make_runs(5), {**META, "seeds": 5}))[0]
    for title in ("long mean s", "long p95 s", "p99 s", "max wait s"):
        assert ours[title].endswith(WORSE)
        assert oracle[title].endswith(WORSE)
    assert WORSE not in ours["short mean s"] + ours["TTFT mean s"]
    assert WORSE not in "".join(fcfs.values())


def test_nothing_is_marked_on_few_seeds_or_without_fcfs() -> None:
    alone = [run for run in make_runs(5) if run["policy"] != "fcfs"]
    for runs in (make_runs(1), make_runs(2), make_runs(4), alone):
        main = tables(markdown(runs, META))[0]
        assert WORSE not in "".join("".join(row.values()) for row in main)


def test_a_recording_that_is_repeated_is_warned_of_once_and_marks_nothing_of_its_own() -> None:
    """Two traffics, one of them too short for the run: five seeds of it are one set of requests."""
    short = make_runs(5, workload="short", notes={**NOTES, "trace_repeats": 4})
    text = markdown([*make_runs(5), *short], {**META, "seeds": 5})
    assert text.count("was repeated up to 4 times: the seeds serve the same requests") == 1
    chat, own = text.split("\n## ")[1:]
    assert f" {WORSE}" in chat
    assert WORSE not in own.split("What the columns mean")[0]
    shown = console_table(short)
    assert shown.count("Warning") == 1
    assert WORSE not in shown
    assert WORSE in console_table([*make_runs(5), *short])


def test_ratios_carry_intervals() -> None:
    ratios = tables(markdown(make_runs(), META))[1]
    assert [row["policy"] for row in ratios] == ["ewsjf", "sjf_total (oracle)"]
    value, low, high = (
        float(x) for x in ratios[0]["short mean"].replace("[", "").replace("]", "").replace(
            ",", "").split()
    )  # fmt: skip
    assert value == pytest.approx(2 / 11, abs=1e-3)
    assert low < value < high
    assert "[" not in tables(markdown(make_runs(seeds=1), META))[1][0]["short mean"]


def test_buckets_give_each_length_its_wait() -> None:
    rows = tables(markdown(make_runs(), META))[2]
    assert list(rows[0]) == ["policy", "1-128", "> 128"]
    assert rows[0] == {"policy": "requests a policy", "1-128": "3", "> 128": "3"}
    assert rows[1] == {"policy": "ewsjf", "1-128": "2.00", "> 128": "19.00"}


def test_unserved_share_is_shown_in_buckets() -> None:
    runs = make_runs()
    for run in runs:
        if run["policy"] == "ewsjf" and run["seed"] == 0:
            run["buckets"][1]["unserved"] = 1
    assert tables(markdown(runs, META))[2][1]["> 128"] == "19.00 (33%)"


def test_a_policy_with_failed_runs_says_so() -> None:
    runs = [r for r in make_runs() if (r["policy"], r["seed"]) != ("ewsjf", 2)]
    main = tables(markdown(runs, META))[0]
    assert main[0]["policy"] == "ewsjf (2 of 3 seeds)"
    # Compared on the seeds that both have, which differ by 9 s each.
    entry = summary_of(runs, "ewsjf", "ttft_short_mean_s")
    assert entry["difference_to_fcfs"] == pytest.approx(-9.0)


@pytest.mark.parametrize(
    ("load", "regime"),
    [(0.7, "below capacity"), (0.95, "near capacity"), (1.3, "overload")],
)
def test_titles_state_load_rates_and_regime(load: float, regime: str) -> None:
    notes = {"achieved_rate_per_s": 2.5, "capped_prompts": 4, "time_stretch": 1.75}
    text = markdown(make_runs(load=load, notes=notes), META)
    (title,) = (line for line in text.splitlines() if line.startswith("## "))
    for part in (f"load {load:g}", "2.6 req/s asked", "2.5 req/s arrived", "x1.75", regime):
        assert part in title
    assert "12 prompts capped" in title


def test_a_rate_has_no_regime() -> None:
    text = markdown(make_runs(load=None), META)
    assert "## chat: 2.6 req/s asked, 2.5 req/s arrived\n" in text


def test_missing_values_are_dashes() -> None:
    runs = make_runs()
    for run in runs:
        run["metrics"] = {**run["metrics"], "ttft_long_mean_s": None}
    assert {row["long mean s"] for row in tables(markdown(runs, META))[0]} == {"-"}


def test_console_table_fits_160_columns_and_is_aligned() -> None:
    lines = console_table(make_runs()).splitlines()
    assert max(map(len, lines)) <= 160
    assert len({len(line) for line in lines[1:6]}) == 1
    assert "**" not in "".join(lines)


def test_frontier_draws_a_row_of_two_panels_a_load(tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    frontier(make_runs(), one)
    frontier(make_runs() + make_runs(load=0.7, rate_per_s=1.4), two)
    heights = [matplotlib.image.imread(path).shape[0] for path in (one, two)]
    assert heights[1] == 2 * heights[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_frontier_leaves_out_what_has_no_coordinates(tmp_path: Path) -> None:
    runs = make_runs()
    for run in runs:
        run["metrics"] = {**run["metrics"], "ttft_long_p95_s": None}
    frontier(runs, tmp_path / "frontier.png")
    assert matplotlib.image.imread(tmp_path / "frontier.png").shape[2] in (3, 4)
