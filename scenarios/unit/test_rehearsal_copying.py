"""What a copy decides without a server: new names, new keys, what is left out, and where the password goes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from harness.errors import DiskFullError, ServerError
from harness.rehearsal import tools
from harness.rehearsal.leftout import LeftOut, Named, filter_list, find_missing
from harness.rehearsal.rekey import (
    OidMap,
    OidNames,
    plan_renames,
    rekey_body,
    rekey_frontier,
    rekey_name,
    rekey_slot,
)
from harness.rehearsal.tools import password_file, run_program
from harness.rehearsal.walposition import Position


def swapped(oid: int) -> int:
    """Two sources that have each other's OID in the copy."""
    return {16400: 16500, 16500: 16400}.get(oid, oid)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("changes_16400", "changes_16500"),
        ("idx_changes_16400_lsn_pk_cid", "idx_changes_16500_lsn_pk_cid"),
        ("changes_16400_change_id_seq", "changes_16500_change_id_seq"),
        ("pg_trickle_cdc_16400", "pg_trickle_cdc_16500"),
        ("pg_trickle_cdc_fn_16400", "pg_trickle_cdc_fn_16500"),
        ("pg_trickle_cdc_truncate_16400", "pg_trickle_cdc_truncate_16500"),
        ("pg_trickle_cdc_truncate_fn_16400", "pg_trickle_cdc_truncate_fn_16500"),
        ("pgt_ivm_after_ins_fn_16400_16400", "pgt_ivm_after_ins_fn_16400_16500"),
        ("changes_1640016400164001", "changes_1640016400164001"),  # a stable name of digits only
        ("changes_d6ad704b2cddddcd", "changes_d6ad704b2cddddcd"),
        ("orders_16400", "orders_16400"),
    ],
)
def test_name_with_an_oid_gets_the_copys(name: str, expected: str) -> None:
    assert rekey_name(name, swapped) == expected


@given(
    mapping=st.permutations(range(16384, 16394)),
    count=st.integers(1, 10),
)
def test_renames_in_any_permutation_never_meet(mapping: list[int], count: int) -> None:
    olds = list(range(16384, 16384 + count))
    new_of = dict(zip(olds, mapping, strict=False))
    present = {f"changes_{oid}": oid for oid in olds}
    for old, new in plan_renames(list(present), lambda oid: new_of[oid]):
        assert new not in present, "the server would refuse this rename"
        present[new] = present.pop(old)
    assert present == {f"changes_{new_of[oid]}": oid for oid in olds}


def test_frontier_keeps_values_and_stable_names() -> None:
    at = {"lsn": "0/17FFF70", "snapshot_ts": "1795232194Z"}
    frontier = {"sources": {"16400": at, "16500": {}, "d6ad704b2cddddcd": at}, "data_timestamp": "1795232194Z"}
    assert rekey_frontier(frontier, swapped) == {
        "sources": {"16500": at, "16400": {}, "d6ad704b2cddddcd": at},
        "data_timestamp": "1795232194Z",
    }
    assert rekey_frontier(None, swapped) is None
    assert rekey_frontier({"sources": None}, swapped) == {"sources": None}


def test_slot_name_follows_its_source() -> None:
    assert rekey_slot("pg_trickle_cdc_16400", swapped) == "pg_trickle_cdc_16500"
    assert rekey_slot("mine", swapped) == "mine"
    assert rekey_slot(None, swapped) is None


def test_body_writes_to_the_copys_buffer_and_nothing_else_changes() -> None:
    body = (
        'INSERT INTO pgtrickle_changes.changes_16400 ("new_changes_16400") VALUES (NEW."changes_16400");\n'
        'INSERT INTO "pgtrickle_changes"."changes_16500" (lsn) SELECT 16400;'
    )
    assert rekey_body(body, swapped) == (
        'INSERT INTO pgtrickle_changes.changes_16500 ("new_changes_16400") VALUES (NEW."changes_16400");\n'
        'INSERT INTO "pgtrickle_changes"."changes_16400" (lsn) SELECT 16400;'
    )


@given(st.from_regex(r"[0-9a-f]{16}", fullmatch=True))
@example("044cd347dddcfe72")
@example("1640016400164001")
def test_body_and_names_with_a_stable_name_stay(stable_name: str) -> None:
    def fail(oid: int) -> int:
        raise AssertionError(oid)

    body = f"PERFORM 1 FROM pgtrickle_changes.changes_{stable_name};"
    assert rekey_body(body, fail) == body
    for name in (f"changes_{stable_name}", f"pg_trickle_cdc_fn_{stable_name}", f"idx_changes_{stable_name}_lsn_pk_cid"):
        assert rekey_name(name, fail) == name


def test_oid_of_a_dropped_source_never_means_another_table() -> None:
    source = OidNames({16400: ("public", "orders")})
    copy = OidNames({16999: ("public", "orders"), 16401: ("public", "late")})
    oids = OidMap(source, copy)
    assert oids.relation(16400) == 16999
    assert oids.relation(16402) == 16402, "free in the copy, so it stays"
    assert oids.relation(16401) not in copy.relations, "taken by another table in the copy"
    assert oids.relation(16401) == oids.relation(16401)
    assert oids.relation(1259) == 1259, "system catalogs have the same OID everywhere"
    assert sorted(oids.dangling) == [16401, 16402]


def test_types_and_column_numbers_follow_by_name() -> None:
    source = OidNames(
        {16400: ("public", "orders")}, {3_000_000_000: ("public", "state")}, {(16400, "id"): 2, (16400, "at"): 4}
    )
    copy = OidNames({16999: ("public", "orders")}, {17000: ("public", "state")}, {(16999, "id"): 1, (16999, "at"): 2})
    oids = OidMap(source, copy)
    assert oids.type(3_000_000_000 - 2**32) == 17000, "0.2 stores it signed"
    assert oids.type(23) == 23
    assert oids.ordinal(16400, "id", 2) == 1
    assert oids.ordinal(16400, "at", 3) == 3, "a number that was stale in the source stays stale"


@pytest.mark.parametrize(
    ("lsn", "segment"),
    [
        (0, "000000010000000000000001"),
        (0x01FFFFFF, "000000010000000000000002"),
        (0xFF000000, "000000010000000100000000"),
        (0x12_FE123456, "0000000100000012000000FF"),
    ],
)
def test_next_segment_lies_behind_the_position(lsn: int, segment: str) -> None:
    position = Position(lsn, 5)
    assert position.next_segment == segment
    start = (int(segment[8:16], 16) << 32) + (int(segment[16:], 16) << 24)
    assert lsn < start <= lsn + 16 * 2**20


def test_next_epoch_lies_behind_every_transaction() -> None:
    assert Position(0, 790).next_epoch == 1
    assert Position(0, (7 << 32) + 4_294_967_295).next_epoch == 8


LISTING = """\
;
; Archive created at 2026-11-21
5; 2615 2200 SCHEMA - public postgres
213; 1259 16389 TABLE public orders app
;\tdepends on: 5
214; 1259 16400 VIEW public broken app
;\tdepends on: 5 300
3380; 0 0 ACL public VIEW broken app
;\tdepends on: 214
3381; 0 0 ACL public TABLE orders app
;\tdepends on: 213
"""


def test_list_leaves_out_an_object_and_its_rights() -> None:
    chosen = filter_list(LISTING, [LeftOut(1259, 16400, "view", "public.broken")])
    assert [line.split(";")[0] for line in chosen.splitlines()] == ["5", "213", "3381"]


def test_missing_view_is_told_and_missing_trigger_refused(tmp_path: Path) -> None:
    table, view = Named(1259, 1, "table", "public.a"), Named(1259, 2, "view", "public.v")
    trigger = Named(2620, 3, "trigger", "t on public.a")
    told = find_missing([table, view], [table], [], tmp_path / "log")
    assert [(one.code, one.subject) for one in told] == [("not_restored", "view public.v")]
    assert find_missing([table, view], [table], [LeftOut(1259, 2, "view", "v")], tmp_path / "log") == ()
    with pytest.raises(ServerError, match=r"lacks 1 object.*trigger t on public\.a"):
        find_missing([table, trigger], [table], [], tmp_path / "log")


@pytest.mark.parametrize("password", ["hunter2", "p:a\\ss w'ord", "ünï"])
def test_password_is_in_a_private_file_and_nowhere_else(tmp_path: Path, password: str) -> None:
    dsn = make_conninfo(host="h", port=5, dbname="d", user="u", password=password)
    with password_file(dsn, tmp_path, read_only=True) as access:
        assert password not in access.conninfo
        assert all(password not in value for value in access.env.values())
        assert access.env["PGOPTIONS"] == "-c default_transaction_read_only=on"
        path = Path(str(conninfo_to_dict(access.conninfo)["passfile"]))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        written = path.read_text(encoding="utf-8").removeprefix("*:*:*:*:").rstrip("\n")
        assert written.replace("\\:", ":").replace("\\\\", "\\") == password
    assert list(tmp_path.iterdir()) == []


def run(tmp_path: Path, script: str) -> int:
    return run_program(Path("/bin/sh"), ["-c", script], env={}, log=tmp_path / "log", disk=tmp_path)


def test_failed_program_is_told_with_its_last_words_and_without_passwords(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"sh ended with code 3: .*cannot do it") as caught:
        run(tmp_path, "echo 'connect to host=h password=hunter2'; echo cannot do it; exit 3")
    assert "hunter2" not in caught.value.message


def test_failed_program_on_a_full_disk_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_FULL_BELOW_BYTES", 2**62)
    with pytest.raises(DiskFullError, match="no room left on the disk"):
        run(tmp_path, "exit 1")


def test_interrupted_program_is_stopped_with_its_children(tmp_path: Path) -> None:
    def interrupt() -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(encoding="ascii").strip():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_program(
            Path("/bin/sh"),
            ["-c", "sleep 60 & echo $! > pid; wait"],
            env={},
            log=tmp_path / "log",
            disk=tmp_path,
            on_tick=interrupt,
        )
    child = int((tmp_path / "pid").read_text(encoding="ascii"))
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text(encoding="ascii").split()[2] == "Z"
