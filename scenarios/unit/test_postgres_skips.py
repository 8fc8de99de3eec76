"""A skip says of which kind it is, and where everything is required it is a failure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.settings import load_settings
from scenarios.fixtures.skips import skip_environment, skip_known_bug, skip_not_applicable


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("HARNESS_REQUIRE_CITUS", raising=False)
    load_settings.cache_clear()
    yield
    monkeypatch.undo()
    load_settings.cache_clear()


def test_environment_skip_is_a_failure_where_everything_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception, match="environment: no Citus"):
        skip_environment("no Citus")
    monkeypatch.setenv("HARNESS_REQUIRE_CITUS", "1")
    load_settings.cache_clear()
    with pytest.raises(pytest.fail.Exception, match=r"no Citus .HARNESS_REQUIRE_CITUS is set"):
        skip_environment("no Citus")


def test_other_skips_stay_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_REQUIRE_CITUS", "1")
    load_settings.cache_clear()
    with pytest.raises(pytest.skip.Exception, match="not applicable: not root"):
        skip_not_applicable("not root")
    with pytest.raises(pytest.skip.Exception, match=r"known bug: it hangs .an address"):
        skip_known_bug("an address", "it hangs")
