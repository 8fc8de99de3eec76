"""What a person may write: schedules, modes, placements, queries; and the sizes that follow from a row count."""

from __future__ import annotations

import pytest

from harness.errors import BadInputError
from harness.trickle.canonical import plain_query
from harness.trickle.definition import check_words, schedule_s
from harness.trickle.names import stable_name
from harness.trickle.storage import MAX_SHARD_COUNT, ROWS_PER_SHARD, SMALL_SHARD_COUNT, shard_count_for


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5_400), ("1d", 86_400), (" 2h ", 7_200), ("1d1h1m1s", 90_061)],
)
def test_schedule_is_so_many_seconds(schedule: str, seconds: int) -> None:
    assert schedule_s(schedule) == seconds


@pytest.mark.parametrize("schedule", ["", " ", "0s", "-5m", "5", "m", "30m1h", "1.5h", "1 h", "5 minutes", "5M", "1w"])
def test_what_is_no_schedule_is_refused_by_its_value(schedule: str) -> None:
    with pytest.raises(BadInputError) as raised:
        schedule_s(schedule)
    assert repr(schedule) in str(raised.value)


def test_words_are_kept_in_one_spelling() -> None:
    assert check_words(" 5m ", "differential", "Distributed") == ("5m", "DIFFERENTIAL", "distributed")
    assert check_words(None, "Full", "AUTO") == (None, "FULL", "auto")


@pytest.mark.parametrize(
    ("schedule", "mode", "placement", "named"),
    [
        (None, "IMMEDIATE", "auto", "IMMEDIATE"),
        (None, "INCREMENTAL", "auto", "INCREMENTAL"),
        (None, "AUTO", "columnar", "columnar"),
        (None, "", "auto", "''"),
        ("soon", "AUTO", "auto", "soon"),
    ],
)
def test_word_that_is_none_is_refused_by_its_value(schedule: str | None, mode: str, placement: str, named: str) -> None:
    with pytest.raises(BadInputError) as raised:
        check_words(schedule, mode, placement)
    assert named in str(raised.value)
    assert raised.value.hint


@pytest.mark.parametrize("text", ["SELECT 1", "SELECT 1;", " SELECT 1 ; ;\n"])
def test_query_loses_the_semicolons_after_it(text: str) -> None:
    assert plain_query(text).as_string() == "SELECT 1"


@pytest.mark.parametrize("text", ["", "  ", ";", " ; ; "])
def test_empty_query_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="empty"):
        plain_query(text)


@pytest.mark.parametrize(
    ("row_count", "shards"),
    [
        (0, SMALL_SHARD_COUNT),
        (SMALL_SHARD_COUNT * ROWS_PER_SHARD, SMALL_SHARD_COUNT),
        (SMALL_SHARD_COUNT * ROWS_PER_SHARD + 1, 2 * SMALL_SHARD_COUNT),
        (10**12, MAX_SHARD_COUNT),
    ],
)
def test_shard_count_follows_the_rows(row_count: int, shards: int) -> None:
    assert shard_count_for(row_count) == shards


def test_stable_names_are_those_of_the_extension() -> None:
    """D1: the two that were read in a real installation."""
    assert stable_name("public", "orders") == "d6ad704b2cddddcd"
    assert stable_name("public", "customers") == "163b982ae39383fe"
