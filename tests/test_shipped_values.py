import json

import pytest

from tests.shipped import VALUES, values

WANTED = json.loads(VALUES.read_text(encoding="utf-8"))
FOUND = values()


def test_every_shipped_file_is_compared():
    assert FOUND.keys() == WANTED.keys()
    assert len(FOUND) > 40


@pytest.mark.parametrize("name", WANTED)
def test_a_shipped_file_means_the_values_that_it_meant(name: str):
    assert FOUND[name] == WANTED[name]
