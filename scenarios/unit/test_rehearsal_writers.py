"""What live writers choose to write, told without a server."""

from __future__ import annotations

import random
from collections import Counter

import psycopg
import pytest
from psycopg.rows import TupleRow

from harness.errors import BadInputError
from harness.rehearsal.tables import Column, SourceTable, TableName
from harness.rehearsal.write_plans import Leaf, WriteKind, WritePlan, write_query
from harness.rehearsal.write_transactions import Ending, TpcB, random_transaction, tpcb_transaction
from harness.rehearsal.writers import Writers


def _column(name: str, type_name: str = "integer", *, identity: str = "", generated: bool = False) -> Column:
    return Column(name, type_name, type_name, f"new_{name}", f"old_{name}", generated, identity, False, False)


def _plan(name: str, *columns: Column, key: tuple[str, ...] = ("id",)) -> WritePlan:
    table = TableName("public", name)
    source = SourceTable(1000, table, "r", columns or (_column("id"), _column("v")), key)
    return WritePlan(source, (Leaf(1000, table, 10),), frozenset(key), frozenset(key), is_counted=True)


def _chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - repeatable on purpose


PLANS = [_plan("a"), _plan("b"), _plan("c")]


def test_writers_same_seed_writes_the_same() -> None:
    def queries() -> list[str]:
        rng = _chance(7)
        return [
            statement.query.as_string(None)
            for _ in range(50)
            for statement in random_transaction(PLANS, None, rng).statements
        ]

    assert queries() == queries()


def test_writers_mix_has_every_kind_of_transaction() -> None:
    rng = _chance(1)
    transactions = [random_transaction(PLANS, None, rng) for _ in range(2000)]
    endings = Counter(transaction.ending for transaction in transactions)
    assert set(endings) == set(Ending)
    assert any(statement.is_undone for transaction in transactions for statement in transaction.statements)
    single = [transaction.statements[0] for transaction in transactions if transaction.ending is Ending.AUTOCOMMIT]
    assert {statement.sign for statement in single} == {-1, 0, 1}
    assert max(statement.most_rows for statement in single) > 1


def test_writers_transactions_of_several_tables_cannot_deadlock_each_other() -> None:
    rng = _chance(2)
    for _ in range(500):
        transaction = random_transaction(PLANS, None, rng)
        if transaction.ending is not Ending.AUTOCOMMIT:
            order = [statement.plan for statement in transaction.statements]
            assert order == sorted(order)
            assert all(statement.sign >= 0 for statement in transaction.statements)


def test_writers_update_leaves_keys_identities_and_generated_columns_alone() -> None:
    plan = _plan(
        "t", _column("id"), _column("always", identity="a"), _column("sum", generated=True), _column("free", "text")
    )
    for seed in range(20):
        text = write_query(plan, WriteKind.UPDATE, _chance(seed)).as_string(None)
        assert text.startswith('UPDATE ONLY "public"."t" SET "free" = ')


def test_writers_insert_gives_keys_new_values_and_leaves_identities_to_the_server() -> None:
    plan = _plan("t", _column("id"), _column("always", identity="a"), _column("v"))
    text = write_query(plan, WriteKind.INSERT, _chance(1)).as_string(None)
    assert text.startswith('INSERT INTO "public"."t" ("id", "v") SELECT (')


def test_writers_table_without_free_column_gets_an_insert_for_an_update() -> None:
    plan = _plan("t", _column("id"))
    rng = _chance(3)
    kinds = Counter(
        transaction.statements[0].sign
        for transaction in (random_transaction([plan], None, rng) for _ in range(300))
        if transaction.ending is Ending.AUTOCOMMIT
    )
    assert kinds[1] > kinds[0], "what would be an UPDATE is counted as a row that came"


def test_writers_tpcb_writes_history_last_and_counts_one_row() -> None:
    names = ("pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history")
    plans = [_plan(name) for name in names]
    tpcb = TpcB({name: number for number, name in enumerate(names)}, 100_000, 10, 1)
    transaction = tpcb_transaction(tpcb, plans, _chance(1))
    assert [statement.plan for statement in transaction.statements] == [0, 1, 2, 3]
    assert [statement.sign for statement in transaction.statements] == [0, 0, 0, 1]


def _never() -> psycopg.Connection[TupleRow]:
    raise AssertionError("nothing connects before the start")


@pytest.mark.parametrize(("threads", "rate"), [(0, 10.0), (2, 0.0), (2, -1.0)])
def test_writers_bad_input_is_refused(threads: int, rate: float) -> None:
    with pytest.raises(BadInputError) as caught:
        Writers(_never, [PLANS[0].source], threads=threads, rate_limit=rate)
    assert caught.value.hint


def test_writers_without_a_source_are_refused() -> None:
    with pytest.raises(BadInputError):
        Writers(_never, [])
