"""Which lists of libraries name pg_trickle's."""

from __future__ import annotations

import pytest

from harness.chain.obstacles import names_library


@pytest.mark.parametrize(
    "setting",
    [
        "pg_trickle",
        "a,pg_trickle",
        "a, pg_trickle , b",
        '"pg_trickle"',
        "'pg_trickle'",
        "$libdir/pg_trickle",
        "$libdir/pg_trickle.so",
        '"/opt/my libs/pg_trickle.so", citus',
        "pg_trickle.dylib",
    ],
)
def test_library_is_found(setting: str) -> None:
    assert names_library(setting)


@pytest.mark.parametrize("setting", ["", "citus", "pg_trickle_other", "my_pg_trickle", "a,pg_trickle2", "pg_trickle/x"])
def test_others_are_not(setting: str) -> None:
    assert not names_library(setting)
