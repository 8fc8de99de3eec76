"""DSNs that lead nowhere, and where a worker is when its coordinator calls it localhost."""

from __future__ import annotations

import pytest

from harness.clusters import existing_cluster
from harness.clusters.existing import _worker_parameters
from harness.clusters.topology import NodeRecord
from harness.errors import BadInputError, ConnectionRefusedByInput


def _record(host: str) -> NodeRecord:
    return NodeRecord(2, 1, host, 9700, "primary", True, True, True, True)


def test_text_that_is_no_dsn_is_refused_without_its_password() -> None:
    with pytest.raises(BadInputError) as refused:
        existing_cluster("host=127.0.0.1 password=hunter2 what")
    assert "hunter2" not in refused.value.message + refused.value.hint


def test_unreachable_coordinator_is_refused_by_name_without_its_password() -> None:
    with pytest.raises(ConnectionRefusedByInput, match=r"127\.0\.0\.1:1 ") as refused:
        existing_cluster("postgresql://me:hunter2@127.0.0.1:1/db")
    assert "hunter2" not in refused.value.message + refused.value.hint


def test_worker_has_the_coordinators_credentials_at_its_own_address() -> None:
    given = {"host": "a", "hostaddr": "10.0.0.1", "port": "5432", "user": "me", "password": "secret"}
    place = _worker_parameters(given, _record("worker.example"), "a")
    assert place == {"host": "worker.example", "port": 9700, "user": "me", "password": "secret"}


@pytest.mark.parametrize("loopback", ["localhost", "127.0.0.1", "::1"])
def test_worker_on_loopback_is_on_the_coordinators_machine(loopback: str) -> None:
    assert _worker_parameters({"host": "db.example"}, _record(loopback), "db.example")["host"] == "db.example"
