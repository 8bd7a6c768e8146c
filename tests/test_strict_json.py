"""Text from anybody: what Python's own parser lets through is refused by one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewsjf_env.config import ConfigError
from ewsjf_env.strict_json import MAX_DEPTH, read_json

HOSTILE = {
    "empty": (b"", "Expecting value"),
    "half": (b'{"a": 1', "Expecting"),
    "not UTF-8": (b'{"a": "\xff\xfe"}', "decode"),
    "lone surrogate": (b'{"a": "\\ud800"}', "a string is not valid Unicode"),
    "NaN": (b'{"a": NaN}', "NaN is not a JSON number"),
    "infinity": (b"-Infinity", "-Infinity is not a JSON number"),
    "overflow": (b'{"a": 1e999}', "the number 1e999 is too large"),
    "huge integer": (b"[1" + b"0" * 30 + b"]", "an integer is out of the range of 64 bits"),
    "more digits than Python reads": (b"1" + b"0" * 5000, "digits"),
    "key twice": (b'{"a": {"b": 1, "b": 2}}', "key 'b' is given twice"),
    "deep": (b"[" * 17 + b"]" * 17, f"nested deeper than {MAX_DEPTH} levels"),
    "very deep": (b"[" * 100_000, f"nested deeper than {MAX_DEPTH} levels"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(name: str) -> None:
    content, message = HOSTILE[name]
    with pytest.raises(ConfigError) as caught:
        read_json(content, "body")
    text = str(caught.value)
    assert text.startswith("body: not valid JSON: ") and message in text
    assert len(text) < 300 and "\n" not in text


def test_size_is_bounded() -> None:
    assert read_json(b"[1, 2]", "body", 6) == [1, 2]
    with pytest.raises(ConfigError, match="body: larger than 5 bytes"):
        read_json(b"[1, 2]", "body", 5)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON.filter(lambda value: len(json.dumps(value)) < 2000))
def test_what_can_be_written_can_be_read(value: object) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return
    assert read_json(text, "file") == value
