"""Capture by hand: what its functions say, what a write is expected to leave, and what a few rows tell of many."""

from __future__ import annotations

import pytest

from harness.bench.groups import capture, forms, positions
from harness.bench.model import Measurement, Profile
from harness.bench.tables import RowSum, Table, make_columns
from harness.bench.triggers.bodies import Target, function_body
from harness.bench.triggers.forms import Dispatch, Form, Level
from harness.bench.triggers.making import index_columns
from harness.bench.triggers.positions import CACHE_1, DEFAULT, ONCE
from harness.bench.workbench import Budget
from harness.bench.writes import Operation, Write
from harness.errors import BadInputError

SHARDED = Table("t1", make_columns(3), is_distributed=True)
PLAIN = Table("t1", make_columns(3), is_distributed=False)
TARGET = Target("by_hand_t1", (("t1_102008", "by_hand_t1_102012"), ("t1_102009", "by_hand_t1_102013")))


def body(table: Table, form: Form, target: Target = TARGET) -> str:
    return function_body(table, target, form).as_string()


def test_branches_name_each_shard_once_and_no_statement_is_dynamic() -> None:
    text = body(SHARDED, Form(position=ONCE))
    for shard, own in TARGET.shards:
        assert text.count(f"WHEN '{shard}' THEN") == 1
        assert text.count(f'INSERT INTO "pgtrickle_changes"."{own}"') == 2  # rows that went, rows that came
    assert "EXECUTE" not in text
    assert text.count("nextval") == 1, "one value a statement"


def test_lookup_finds_the_shard_when_it_fires() -> None:
    text = body(SHARDED, Form(position=ONCE, dispatch=Dispatch.LOOKUP))
    assert text.count("EXECUTE pg_catalog.format(") == 2
    assert "by_hand_t1_1020" not in text


def test_row_level_reads_the_rows_and_no_transition_table() -> None:
    text = body(SHARDED, Form(level=Level.ROW, position=CACHE_1, dispatch=Dispatch.SHELL))
    assert "__pgt_" not in text
    assert 'NEW."n"' in text
    assert 'OLD."n"' in text


def test_default_position_is_left_to_the_column() -> None:
    text = body(SHARDED, Form(level=Level.ROW, position=DEFAULT, dispatch=Dispatch.SHELL))
    assert text.count("DEFAULT)") == 2


def test_one_server_has_one_buffer_whatever_the_dispatch() -> None:
    target = Target("by_hand_t1")
    found = {body(PLAIN, Form(dispatch=dispatch), target) for dispatch in Dispatch}
    assert len(found) == 1
    assert "shard_key" not in found.pop()


def test_filter_joins_both_images_for_an_update_only() -> None:
    text = body(SHARDED, Form(only_changed=("n",)))
    assert text.count("IS DISTINCT FROM") == 2 * len(TARGET.shards)
    assert "IS DISTINCT FROM" not in body(SHARDED, Form(only_changed=("n",), level=Level.ROW)), "its condition has it"


def test_indexes_are_of_columns_that_there_are() -> None:
    assert list(index_columns(Form(indexes=2))) == ["xid", "new_id"]
    assert list(index_columns(Form(indexes=1, has_xid=False))) == ["new_id"]
    with pytest.raises(BadInputError):
        Form(indexes=2, has_xid=False)


@pytest.mark.parametrize(
    ("operation", "before", "expected"),
    [
        (Operation.INSERT, 0, (100, 0)),
        (Operation.COPY, 0, (100, 0)),
        (Operation.UPDATE, 100, (100, 100)),
        (Operation.UPDATE_HALF, 100, (100, 100)),
        (Operation.DELETE, 100, (0, 100)),
        (Operation.UPSERT, 50, (100, 50)),
    ],
)
def test_write_says_what_it_finds_and_leaves(operation: Operation, before: int, expected: tuple[int, int]) -> None:
    write = Write.bulk(operation, 100)
    assert write.rows_before == before
    assert write.expected() == expected


def test_filter_leaves_the_unchanged_half_out() -> None:
    assert Write.bulk(Operation.UPDATE_HALF, 100).expected(is_filtered=True) == (50, 50)
    assert Write.bulk(Operation.UPDATE, 100).expected(is_filtered=True) == (100, 100)


def test_few_slow_rows_are_scaled_by_what_each_cost_more() -> None:
    few, without = (
        Measurement(name, "s", samples, work=10) for name, samples in (("a", (1.1, 2.2)), ("b", (0.1, 0.2)))
    )
    many = Measurement("none", "s", (3.0, 4.0), work=1_000)
    scaled = positions.scale_up("slow", few, without, many)
    assert scaled.samples == pytest.approx((103.0, 204.0))
    assert (scaled.name, scaled.work) == ("slow", 1_000)


def test_budget_gives_what_is_left_to_the_parts_that_are_left() -> None:
    now = 0.0
    budget = Budget(100.0, parts=2, now=lambda: now)
    first = budget.next_part()
    now = 10.0  # it ended early
    assert not first()
    second = budget.next_part()
    now = 79.0
    assert not second()
    now = 80.0
    assert second()


def test_columns_have_different_names_and_the_key_first() -> None:
    columns = make_columns(100)
    assert len({column.name for column in columns}) == 100
    assert [column.name for column in columns[:5]] == ["id", "n", "note", "amount", "at"]
    with pytest.raises(ValueError, match="1 columns"):
        make_columns(1)


def test_sums_of_rows_subtract() -> None:
    assert RowSum(3, 10) - RowSum(1, 12) == RowSum(2, -2)


@pytest.mark.parametrize("profile", [Profile.STANDARD, Profile.FULL])
def test_families_and_their_forms_have_names_of_their_own(profile: Profile) -> None:
    families = forms.choose_families(profile)
    names = [f"{family.name}/{form}" for family in families for form in (*family.forms, "none")]
    assert len(set(names)) == len(names)
    assert {form for family in families for form in family.forms} >= {"branches", "lookup", "engine"}


@pytest.mark.parametrize("profile", list(Profile))
def test_capture_measures_its_goal_in_every_profile(profile: Profile) -> None:
    deciding = [case for case in capture.choose_cases(profile) if case.goal]
    assert [(case.goal, case.write.rows, case.write.per_statement) for case in deciding] == [
        ("bulk_insert", 100_000, 100_000)
    ]
