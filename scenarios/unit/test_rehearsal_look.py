"""What is refused before anything is made: options, connection strings, room, binaries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import BadInputError, ConnectionRefusedByInput, DiskFullError
from harness.postgres import Installation
from harness.rehearsal.look import check_room, choose_for
from harness.rehearsal.options import RehearsalOptions
from harness.rehearsal.source import CatalogState, SourceFacts, connect_source, show_dsn


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sources": 0}, "--sources 0"),
        ({"rows": -1}, "--rows -1"),
        ({"jobs": 0}, "--jobs 0"),
        ({"threads": 0}, "--threads 0"),
        ({"lock_timeout_ms": 0}, "--lock-timeout-ms 0"),
        ({"deadline_s": 0.0}, "--deadline-s 0"),
        ({"seed": -1}, "--seed -1"),
        ({"copy": "sideways"}, "--copy 'sideways'"),
        ({"dsn": " "}, "--dsn is empty"),
    ],
)
def test_option_out_of_range_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInputError, match=named) as caught:
        RehearsalOptions(**options).checked()
    assert caught.value.hint


def test_seed_is_drawn_once_and_kept() -> None:
    assert RehearsalOptions(seed=7).checked().seed == 7
    drawn = RehearsalOptions().checked()
    assert drawn.seed is not None
    assert drawn.checked() == drawn


@pytest.mark.parametrize("dsn", ["host=h hunter2", "postgresql://u:hunter2 x@h:port/db", "hunter2"])
def test_unreadable_dsn_is_refused_without_repeating_it(dsn: str) -> None:
    with pytest.raises(BadInputError) as caught:
        connect_source(dsn)
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_shown_dsn_has_no_password() -> None:
    shown = show_dsn("postgresql://app:hunter2@db.example:5433/shop?sslpassword=hunter2")
    assert shown == "host=db.example port=5433 dbname=shop user=app"


def test_dsn_that_leads_nowhere_says_where_and_not_the_password() -> None:
    with pytest.raises(ConnectionRefusedByInput, match=r"host=127\.0\.0\.1 port=1 dbname=shop user=app") as caught:
        connect_source("host=127.0.0.1 port=1 dbname=shop user=app password=hunter2")
    assert "hunter2" not in caught.value.message
    assert caught.value.exit_code == 2


def test_too_small_a_disk_is_told_with_both_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=2**30))
    with pytest.raises(DiskFullError, match=r"about 2\.4 GiB .* has 1\.0 GiB free"):
        check_room(tmp_path / "not" / "yet", 2**30, physical=False)
    check_room(tmp_path, 2**28, physical=True)


def make_installation(major: int, *extensions: str) -> Installation:
    path = Path(f"/pg/{major}")
    return Installation(path, path, path, f"{major}.1", major, dict.fromkeys(extensions, "1"), "test")


def make_facts(major: int, *extensions: str) -> SourceFacts:
    return SourceFacts(
        dsn="", shown="", dbname="d", role="r", version=f"{major}.0", major=major, size_bytes=0, encoding="UTF8",
        collate="C", ctype="C", provider="c", locale=None, catalog=CatalogState.EXTENSION, extension_version="0.2.0",
        revision=None, extensions=dict.fromkeys(extensions, "1"), is_superuser=True, is_standby=False, uses_tls=False,
    )  # fmt: skip


def test_copy_lives_on_the_same_or_a_newer_major_with_the_extensions() -> None:
    old, bare, full = make_installation(17), make_installation(18), make_installation(18, "postgis")
    assert choose_for([old, bare, full], make_facts(18, "postgis"), same_major=False) is full
    assert choose_for([full, old], make_facts(17), same_major=False) is old
    assert choose_for([bare, full], make_facts(17), same_major=True) is None
    assert choose_for([old], make_facts(18), same_major=False) is None
