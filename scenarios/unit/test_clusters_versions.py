"""Which Citus goes with which PostgreSQL; what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.clusters import check_pair, choose_citus_installation
from harness.clusters.configuration import node_settings
from harness.clusters.versions import citus_major, is_supported_pair
from harness.errors import BadInputError, CitusMissingError, UnsupportedVersionError
from harness.postgres import Installation
from harness.postgres.installations import wheel_bindir
from harness.settings import CitusSettings, load_settings


def _installation(major: int, citus: str | None) -> Installation:
    extensions = {"plpgsql": "1.0"} if citus is None else {"plpgsql": "1.0", "citus": citus}
    place = Path(f"/opt/pg{major}")
    return Installation(place / "bin", place / "lib", place / "share", f"{major}.1", major, extensions, "a test")


@pytest.mark.parametrize(("postgres", "citus"), [(17, "13.0-1"), (17, "13.2-1"), (18, "14.0-1"), (18, "14.1-1")])
def test_pair_in_range_is_supported(postgres: int, citus: str) -> None:
    assert is_supported_pair(postgres, citus)
    check_pair(postgres, citus, where="here")


@pytest.mark.parametrize(("postgres", "citus"), [(17, "14.0-1"), (18, "13.2-1"), (16, "13.0-1"), (18, "15.0-1")])
def test_pair_out_of_range_is_refused_by_name(postgres: int, citus: str) -> None:
    with pytest.raises(
        UnsupportedVersionError, match=f"Citus {citus} on PostgreSQL {postgres} .* not supported"
    ) as refused:
        check_pair(postgres, citus, where="/opt/bin")
    assert "Citus 14.x on PostgreSQL 18" in refused.value.hint


def test_citus_version_that_is_none_is_refused() -> None:
    assert citus_major("13.2devel") == 13
    with pytest.raises(UnsupportedVersionError, match="'devel'"):
        citus_major("devel")


def test_first_supported_pair_is_chosen() -> None:
    found = [
        _installation(18, None),
        _installation(17, "14.0-1"),
        _installation(18, "14.0-1"),
        _installation(17, "13.0-1"),
    ]
    assert choose_citus_installation(found) is found[2]


def test_only_unsupported_pairs_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedVersionError, match=r"Citus 12.1-1 on PostgreSQL 16 \(/opt/pg16/bin\)"):
        choose_citus_installation([_installation(18, None), _installation(16, "12.1-1")])


def test_machine_without_citus_says_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = wheel_bindir()
    assert wheel is not None
    monkeypatch.setenv("HARNESS_PG_BINDIR", str(wheel))
    load_settings.cache_clear()
    try:
        with pytest.raises(CitusMissingError, match="no PostgreSQL with Citus") as missing:
            choose_citus_installation()
    finally:
        monkeypatch.undo()
        load_settings.cache_clear()
    assert str(wheel.resolve()) in missing.value.message
    assert "/usr/local/pgsql" in missing.value.message


def test_node_settings_put_citus_first_and_let_the_caller_win() -> None:
    settings = node_settings(
        CitusSettings(), {"shared_preload_libraries": "pg_stat_statements", "wal_level": "replica"}
    )
    assert settings["shared_preload_libraries"] == "citus, pg_stat_statements"
    assert settings["wal_level"] == "replica"
    assert settings["max_prepared_transactions"] != "0"


def test_shard_count_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITUS_SHARD_COUNT", "12")
    assert node_settings(CitusSettings())["citus.shard_count"] == "12"


def test_statistics_of_use_cannot_be_switched_on() -> None:
    with pytest.raises(BadInputError, match="enable_statistics_collection"):
        node_settings(CitusSettings(), {"citus.enable_statistics_collection": "on"})
