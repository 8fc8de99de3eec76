"""Two sessions make the capture of one source at the same time, as two stream tables over it do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from harness.waiting import wait_until
from scenarios.capture.capturing import Ground, capture

WAITS = "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"


def test_who_comes_second_waits_and_both_have_made_it(ground: Ground) -> None:
    node = ground.cluster.coordinator
    with ground.captured("(id bigint PRIMARY KEY, v text)") as made, ThreadPoolExecutor(1) as pool:
        with node.connect() as second, node.connect(autocommit=False) as first:
            # Where it stands in the middle: later its row of pgt_change_tracking would keep the other one out.
            first.execute("SELECT pgtrickle._set_function(%s::regclass, %s)", [made.table.as_string(), made.stable])
            later = pool.submit(capture, second, made.name)
            wait_until("the second one to wait", lambda: node.value(WAITS, [second.info.backend_pid]), deadline_s=30)
            first.commit()
            assert later.result(timeout=30) == made.stable
        made.run("INSERT INTO {t} SELECT i, 'v' FROM generate_series(1, 20) i")
        made.run("UPDATE {t} SET v = 'w' WHERE id > 10")
        made.assert_sums()
