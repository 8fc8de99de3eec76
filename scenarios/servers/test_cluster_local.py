"""Clusters of local processes: where their start's time goes, and what they leave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.clusters import LocalCluster, local_cluster
from harness.errors import BadInputError, ServerStartError
from harness.postgres import Installation
from harness.postgres.places import servers_dir
from harness.waiting import wait_until


@pytest.fixture(scope="module")
def local(citus_installation: Installation) -> Iterator[LocalCluster]:
    with local_cluster(workers=2, installation=citus_installation) as made:
        yield made


def test_cluster_start_says_where_the_time_went(local: LocalCluster) -> None:
    assert list(local.start_time) == ["template", "copy", "start", "identity", "join"]


def test_failed_start_of_one_node_leaves_none(own_run_dir: Path, citus_installation: Installation) -> None:
    before = set(servers_dir().iterdir())
    with pytest.raises(ServerStartError) as failed:
        local_cluster(workers=2, settings={"max_connections": "lots"}, installation=citus_installation)
    assert 'invalid value for parameter "max_connections"' in failed.value.log_tail
    assert {path for path in servers_dir().iterdir() if path not in before and path.is_dir()} == set()


@pytest.mark.parametrize("name", ["citus.distributed_executor", "citus.max_worker_processes"])
def test_setting_that_citus_lost_is_refused_by_name(citus_installation: Installation, name: str) -> None:
    with pytest.raises(BadInputError, match=f"setting {name} does not exist"):
        local_cluster(workers=0, settings={name: "4"}, installation=citus_installation)


def test_password_file_of_a_node_is_its_own(local: LocalCluster) -> None:
    for node in local.nodes:
        assert (node.root / ".pgpass").stat().st_mode & 0o777 == 0o600


def test_sigterm_leaves_no_node(tmp_path: Path, citus_installation: Installation) -> None:
    script = tmp_path / "holds.py"
    script.write_text(
        "import time\n"
        "from harness.clusters import local_cluster\n"
        "from harness.postgres.lifetime import install_signal_handlers\n"
        "install_signal_handlers()\n"
        "cluster = local_cluster(workers=1)\n"
        "print(*(node.root for node in cluster.nodes), flush=True)\n"
        "time.sleep(60)\n",
        encoding="utf-8",
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        lines: list[str] = []
        for line in holder.stdout:  # log lines may come first
            lines = line.split()
            if lines and all(Path(each).is_absolute() for each in lines):
                break
        roots = [Path(each) for each in lines]
        assert all(root.is_dir() for root in roots)
        holder.terminate()
        holder.wait(timeout=20)
    wait_until("the directories to go", lambda: not any(root.exists() for root in roots), deadline_s=5)
