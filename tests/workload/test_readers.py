"""The readers: every format gives the same table; every damage gives one clear error."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.workload.columns import TraceTable
from ewsjf_env.workload.readers import FORMATS, read_trace_file

CSV = "arrival_s,prompt_tokens,output_tokens\n0,374,44\n4.25,396,109\n4.25,879,55\n"
TIMES, PROMPTS, OUTPUTS = [0.0, 4.25, 4.25], [374, 396, 879], [44, 109, 55]


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def assert_content(table: TraceTable, file_format: str) -> None:
    assert table.format == file_format
    assert table.arrival_s is not None
    assert table.arrival_s.tolist() == TIMES
    assert table.prompt_tokens.tolist() == PROMPTS
    assert table.output_tokens.tolist() == OUTPUTS


def error_of(path: Path, file_format: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read_trace_file(path, file_format)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("text", [CSV, CSV.replace("\n", "\r\n"), "\ufeff" + CSV, CSV + "\n\n"])
def test_csv_is_read_plain_and_compressed(tmp_path: Path, name: str, text: str) -> None:
    assert_content(read_trace_file(write(tmp_path / name, text)), "csv")


def test_gzip_is_recognised_without_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress(CSV.encode()))
    assert_content(read_trace_file(path), "csv")


def test_extra_columns_are_ignored_and_priority_is_kept(tmp_path: Path) -> None:
    text = "client_id,arrival_s,prompt_tokens,output_tokens,priority\n7,1,10,20,-2\n8,2,30.0,40,5\n"
    table = read_trace_file(write(tmp_path / "t.csv", text))
    assert table.priority is not None
    assert table.priority.tolist() == [-2, 5]
    assert table.prompt_tokens.tolist() == [10, 30]


@pytest.mark.parametrize(
    "stamps",
    [
        ("2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9305900"),
        ("2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:04.259930+00:00"),
        ("2024-05-10 23:59:59+00:00", "2024-05-11 00:00:03.250+00:00"),
        ("2024-05-10 00:00:00", "2024-05-10 00:00:04.25"),
    ],
)
def test_azure_time_stamps_become_seconds(tmp_path: Path, stamps: tuple[str, str]) -> None:
    rows = [f"{stamps[0]},374,44", f"{stamps[1]},396,109", f"{stamps[1]},879,55"]
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows)
    assert_content(read_trace_file(write(tmp_path / "azure.csv", text)), "azure")


def test_burstgpt_failures_are_skipped_and_counted(tmp_path: Path) -> None:
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "0,ChatGPT,374,44,418,Conversation log\n"
        "2,GPT-4,500,0,500,API log\n"
        "4.25,GPT-4,396,109,505,API log\n"
        "4.25,ChatGPT,879,55,934,Conversation log\n"
    )
    table = read_trace_file(write(tmp_path / "b.csv", text))
    assert_content(table, "burstgpt")
    assert table.skipped_failed == 1


def test_burstgpt_with_failures_only_has_no_request(tmp_path: Path) -> None:
    text = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n0,a,5,0,5,b\n"
    assert "no request in the file (1 failed ones skipped)" in error_of(write(tmp_path / "b", text))


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        (("timestamp", "input_length", "output_length"), 1000),
        (("arrival_s", "prompt_tokens", "output_tokens"), 1),
    ],
)
@pytest.mark.parametrize("hashes", [True, False])
def test_mooncake_in_both_wordings(
    tmp_path: Path, keys: tuple[str, str, str], scale: int, hashes: bool
) -> None:
    ids = [[0], [0], [0, 17]]
    lines = []
    for i in range(3):
        item: dict[str, object] = dict(
            zip(keys, (TIMES[i] * scale, PROMPTS[i], OUTPUTS[i]), strict=True)
        )
        lines.append(json.dumps({**item, "hash_ids": ids[i]} if hashes else item))
    table = read_trace_file(write(tmp_path / "m.jsonl.gz", "\n".join(lines)))
    assert_content(table, "mooncake")
    assert table.block_ids == (((0,), (0,), (0, 17)) if hashes else None)


@pytest.mark.parametrize("header", ["arrival_s,prompt_tokens,output_tokens", None])
def test_lengths_without_times(tmp_path: Path, header: str | None) -> None:
    text = f"{header}\n,5,6\n,7,8\n" if header else "prompt_tokens,output_tokens\n5,6\n7,8\n"
    table = read_trace_file(write(tmp_path / "l.csv", text))
    assert table.format == "lengths"
    assert table.arrival_s is None
    assert table.prompt_tokens.tolist() == [5, 7]


def test_lengths_format_ignores_times(tmp_path: Path) -> None:
    assert read_trace_file(write(tmp_path / "t.csv", CSV), "lengths").arrival_s is None


@given(
    rows=st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(1, 10_000_000), st.integers(1, 10_000_000)),
        min_size=1,
        max_size=20,
    ),
    file_format=st.sampled_from(["csv", "burstgpt", "mooncake"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_round_trip(tmp_path: Path, rows: list[tuple[float, int, int]], file_format: str) -> None:
    rows.sort(key=lambda row: row[0])
    if file_format == "mooncake":
        names = ("arrival_s", "prompt_tokens", "output_tokens")
        text = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    else:
        header = {
            "csv": "arrival_s,prompt_tokens,output_tokens",
            "burstgpt": "Timestamp,Request tokens,Response tokens",
        }[file_format]
        text = "\n".join([header, *(",".join(map(repr, row)) for row in rows)])
    table = read_trace_file(write(tmp_path / "t", text))
    assert table.format == file_format
    assert table.arrival_s is not None
    assert table.arrival_s.tolist() == [row[0] for row in rows]
    assert table.prompt_tokens.tolist() == [row[1] for row in rows]
    assert table.output_tokens.tolist() == [row[2] for row in rows]


BAD_CSV = {
    "prompt_tokens missing": ("arrival_s,output_tokens\n0,1\n", "row 1: missing column 'prompt_to"),
    "misspelt": (
        "arrival_s,promt_tokens,output_tokens\n0,1,1\n",
        "missing column 'prompt_tokens'; found 'promt_tokens'; nearest valid name: 'prompt_tokens'",
    ),
    "misspelt time": (
        "arival_s,prompt_tokens,output_tokens\n0,1,1\n",
        "missing column 'arrival_s'; found 'arival_s'",
    ),
    "twice": ("arrival_s,prompt_tokens,prompt_tokens,output_tokens\n0,1,1,1\n", "appears 2 times"),
    "other words": ("a,b,c\n0,1,1\n", "missing column"),
    "negative time": (CSV + "-1,5,5\n", "row 5: arrival_s: -1.0, expected [0, 1e+12]"),
    "nan time": (CSV + "nan,5,5\n", "row 5: arrival_s: nan, expected [0, 1e+12]"),
    "infinite time": (CSV + "inf,5,5\n", "row 5: arrival_s: inf, expected [0, 1e+12]"),
    "unsorted": (CSV + "4,5,5\n", "row 5: arrival_s: 4.0, expected at least 4.25"),
    "time is text": (CSV + "noon,5,5\n", "row 5: arrival_s: 'noon', expected a number"),
    "time missing": (CSV + ",5,5\n", "row 5: arrival_s: '', expected a time in every row"),
    "zero prompt": (
        CSV + "5,0,5\n",
        "row 5: prompt_tokens: 0, expected a whole number in [1, 10000000]",
    ),
    "zero output": (CSV + "5,5,0\n", "row 5: output_tokens: 0, expected"),
    "negative tokens": (CSV + "5,-3,5\n", "row 5: prompt_tokens: -3, expected"),
    "half a token": (CSV + "5,5,1.5\n", "row 5: output_tokens: 1.5, expected a whole number"),
    "nan tokens": (CSV + "5,nan,5\n", "row 5: prompt_tokens: nan, expected"),
    "text tokens": (CSV + "5,many,5\n", "row 5: prompt_tokens: 'many', expected a number"),
    "empty tokens": (CSV + "5,5,\n", "row 5: output_tokens: '', expected a number"),
    "absurd tokens": (CSV + "5,10000001,5\n", "row 5: prompt_tokens: 10000001, expected"),
    "astronomic tokens": (CSV + "5,1e300,5\n", "row 5: prompt_tokens: 1e+300, expected"),
    "blank line before": (CSV + "\n5,0,5\n", "row 6: prompt_tokens: 0"),
    "too few fields": (CSV + "5,5\n", "row 5: 2 fields, expected 3"),
    "too many fields": (CSV + "5,5,5,5\n", "row 5: 4 fields, expected 3"),
    "huge field": (CSV + "5,5," + "1" * 200_000 + "\n", "row 5: not valid CSV"),
    "huge header": ("a" * 200_000 + ",b\n", "row 1: not valid CSV"),
    "header only": ("arrival_s,prompt_tokens,output_tokens\n", "no request in the file"),
    "bad priority": (
        "arrival_s,prompt_tokens,output_tokens,priority\n0,1,1,high\n",
        "row 2: priority: 'high', expected a number",
    ),
    "empty": ("", "empty"),
    "blank": ("\n\n", "missing column"),
    "nul bytes": (CSV + "\0\0\0\n", "row 5: binary data"),
}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv(tmp_path: Path, case: str, suffix: str) -> None:
    text, expected = BAD_CSV[case]
    assert expected in error_of(write(tmp_path / f"bad{suffix}", text))


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:01,3,4\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,m,3,4,7,l\n"
MOON = '{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n'
BAD_OTHER = {
    "azure unsorted": (AZURE + "2024-05-10 00:00:00,3,4\n", "row 3: TIMESTAMP: '2024-05-10 00:00:"),
    "azure no date": (AZURE + "yesterday,3,4\n", "row 3: TIMESTAMP: 'yesterday', expected a time"),
    "azure zero": (AZURE + "2024-05-10 00:00:01,3,0\n", "row 3: GeneratedTokens: 0, expected"),
    "azure misspelt": (
        AZURE.replace("ContextTokens", "ContxtTokens"),
        "found 'ContxtTokens'; nearest valid name: 'ContextTokens'",
    ),
    "burst unsorted": (BURST + "4,m,3,4,7,l\n", "row 3: Timestamp: 4.0, expected at least 5.0"),
    "burst zero": (BURST + "5,m,0,4,7,l\n", "row 3: Request tokens: 0, expected"),
    "burst text": (BURST + "5,m,3,none,7,l\n", "row 3: Response tokens: 'none', expected a number"),
    "moon json": (MOON + "{oops\n", "row 2: not valid JSON"),
    "moon cut": (MOON + MOON[:30], "row 2: not valid JSON"),
    "moon list": (MOON + "[1]\n", "row 2: expected a JSON object, got [1]"),
    "moon deep": (MOON + "[" * 100_000 + "\n", "row 2: not valid JSON"),
    "moon key": (
        MOON + MOON.replace("input_length", "input_lenght"),
        "row 2: missing column 'input_length'; found 'input_lenght'",
    ),
    "moon unsorted": (MOON + MOON.replace("3000", "2999"), "row 2: timestamp: 2999.0, expected"),
    "moon negative": (MOON.replace("3000", "-1"), "row 1: timestamp: -1.0, expected"),
    "moon nan": (MOON.replace("3000", "NaN"), "row 1: timestamp: nan, expected"),
    "moon true": (MOON.replace("600", "true"), "row 1: input_length: True, expected a number"),
    "moon null": (MOON.replace("600", "null"), "row 1: input_length: None, expected a number"),
    "moon digits": (MOON.replace("600", "9" * 400), "row 1: input_length: 9999"),
    "moon thousands of digits": (MOON.replace("600", "9" * 5000), "row 1: not valid JSON"),
    "moon ids missing": (
        MOON + '{"timestamp": 3000, "input_length": 600, "output_length": 5}\n',
        "row 2: hash_ids: missing, unlike row 1",
    ),
    "moon ids count": (MOON.replace("[1, 2]", "[1]"), "row 1: hash_ids: 1 ids, expected 2 for 600"),
    "moon ids negative": (MOON.replace("[1, 2]", "[1, -2]"), "row 1: hash_ids: -2, expected a lis"),
    "moon ids text": (MOON.replace("[1, 2]", '"ab"'), "row 1: hash_ids: 'ab', expected a list"),
}


@pytest.mark.parametrize("case", BAD_OTHER)
def test_bad_rows_of_other_formats(tmp_path: Path, case: str) -> None:
    text, expected = BAD_OTHER[case]
    assert expected in error_of(write(tmp_path / "bad", text))


def test_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    write(tmp_path / "azure_conv.csv", CSV)
    message = error_of(tmp_path / "azure_con.csv")
    assert "no such file; nearest file there: 'azure_conv.csv'" in message


def test_missing_folder(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "none" / "t.csv")


def test_directory(tmp_path: Path) -> None:
    assert "is a directory" in error_of(tmp_path)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.csv", CSV)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot be read: Permission denied" in error_of(path)


def test_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read|no such file"):
        read_trace_file(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9, 0.9999])
def test_truncated_gzip(tmp_path: Path, kept: float) -> None:
    rng = np.random.default_rng(0)
    body = "".join(f"{i},{rng.integers(1, 9999)},{rng.integers(1, 999)}\n" for i in range(5000))
    data = gzip.compress(("arrival_s,prompt_tokens,output_tokens\n" + body).encode())
    path = tmp_path / "t.csv.gz"
    path.write_bytes(data[: int(len(data) * kept)])
    assert "truncated gzip file" in error_of(path)


def test_damaged_gzip(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(CSV.encode()))
    data[-6] ^= 0xFF  # inside the check sum
    path = tmp_path / "t.csv.gz"
    path.write_bytes(bytes(data))
    assert "damaged gzip file" in error_of(path)


def test_not_gzip_and_empty_gzip_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_text(CSV)
    assert "not a gzip file" in error_of(path)
    path.write_bytes(b"")
    assert "empty" in error_of(path)
    path.write_bytes(gzip.compress(b""))
    assert "empty" in error_of(path)


@given(junk=st.binary(max_size=300), name=st.sampled_from(["t", "t.gz", "t.jsonl"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_binary_junk_is_one_error(tmp_path: Path, junk: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(junk)
    for file_format in (None, *FORMATS):
        with pytest.raises(ConfigError):
            read_trace_file(path, file_format)


def test_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", CSV)
    with pytest.raises(ConfigError, match="'mooncacke'; nearest valid name: 'mooncake'"):
        read_trace_file(path, "mooncacke")


def test_a_named_format_is_not_guessed(tmp_path: Path) -> None:
    assert "missing column 'TIMESTAMP'" in error_of(write(tmp_path / "t.csv", CSV), "azure")
    assert "not valid JSON" in error_of(tmp_path / "t.csv", "mooncake")
