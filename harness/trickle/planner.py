"""Finds out how each stream table follows its query, and keeps it for as long as nothing changes."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from harness.errors import LockedError, RefusedError
from harness.trickle import catalog
from harness.trickle.analysis import Analysis, analyze
from harness.trickle.canonical import plain_query
from harness.trickle.catalog import StreamTable
from harness.trickle.definition import recomputed
from harness.trickle.making import remove_captures
from harness.trickle.plans import Plan, choose_plan
from harness.trickle.repair.settle import fenced, settle_columns
from harness.trickle.session import patiently

# Before a stream table that was followed is recomputed for good, its query is looked at again after so many seconds.
PAUSES_S = (0.5, 2.0)


def fetch_known(connection: psycopg.Connection[Any], relid: int) -> StreamTable:
    """A stream table that was there a moment ago, as the catalog has it now.

    Args:
        connection: to the coordinator.
        relid: its OID.

    Raises:
        RefusedError: it was dropped meanwhile.
    """
    found = catalog.fetch_by_relid(connection, relid)
    if found is None:
        raise RefusedError("the stream table was dropped meanwhile", hint="`harness st list` shows those that are left")
    return found


def _is_captured(stream_table: StreamTable) -> bool:
    return any(dependency.is_captured for dependency in stream_table.dependencies)


class Planner:
    """The plans of one session.

    Args:
        connection: to the coordinator, or to a server without Citus; in autocommit. A plan that turns out to recompute
            its query ends the capture of its sources there.
        has_citus: whether the coordinator has it.
    """

    def __init__(self, connection: psycopg.Connection[Any], *, has_citus: bool) -> None:
        self._connection = connection
        self._has_citus = has_citus
        self._plans: dict[int, tuple[object, Plan]] = {}

    def knows(self, pgt_id: int) -> bool:
        """Whether a plan was made for it in this session, which may be out of date."""
        return pgt_id in self._plans

    def forget(self, pgt_id: int) -> None:
        """Make its plan anew when it is asked for."""
        self._plans.pop(pgt_id, None)

    def planned(self, found: StreamTable) -> tuple[StreamTable, Plan]:
        """A stream table as the catalog has it once its plan is made, which may write there; and the plan.

        Args:
            found: as the catalog has it now; nobody else is at it.

        Raises:
            LockedError, QueryRefusedError: see `plan`.
            psycopg.Error: a lock was not to be had for 10 s, or a node is lost.
        """
        while True:
            known = self._plans.get(found.pgt_id)
            plan = patiently(lambda: self.plan(found))  # noqa: B023 - called here and now
            if self._plans.get(found.pgt_id) is known:
                return found, plan
            now = fetch_known(self._connection, found.relid)
            if now.plan_epoch == found.plan_epoch:
                return now, plan
            found = now

    def plan(self, stream_table: StreamTable) -> Plan:
        """How it follows its query; found out once for as long as neither it nor its sources change.

        Args:
            stream_table: as the catalog has it now.

        Raises:
            LockedError: what it reads was altered meanwhile.
            QueryRefusedError: PostgreSQL does not understand the query any more.
            psycopg.Error: see `planned`.
        """
        known_as = (
            stream_table.relid,
            stream_table.query,
            stream_table.mode,
            stream_table.storage_format,
            stream_table.placement,
            stream_table.schema,
            stream_table.name,
            stream_table.dependencies,
            stream_table.plan_epoch,
        )
        known = self._plans.get(stream_table.pgt_id)
        if known is not None and known[0] == known_as:
            return known[1]
        analysis = self._analyzed(stream_table)
        if stream_table.mode == "FULL":
            analysis = recomputed(analysis)
        elif not _is_captured(stream_table):
            analysis = recomputed(analysis, "a delta that Citus could not plan when it was made")
        if not analysis.is_incremental and _is_captured(stream_table):
            self._stop_reading(stream_table, analysis)
        plan = choose_plan(
            self._connection,
            analysis,
            table=stream_table.identifier,
            placement=stream_table.placement,
            distribution_column=stream_table.distribution_column,
            has_citus=self._has_citus,
            # A table that pg_trickle made gets its shape with its first rows: until then no delta fits it.
            is_tried=stream_table.storage_format is not None,
        )
        self._plans[stream_table.pgt_id] = (known_as, plan)
        return plan

    def _analyzed(self, stream_table: StreamTable) -> Analysis:
        """What its query is; asked again before one that was followed is given up.

        A name that changes reaches the nodes of a cluster one after the other: meanwhile it cannot be read (chaos seed
        311).
        """
        for pause_s in PAUSES_S:
            analysis = analyze(self._connection, plain_query(stream_table.query))
            if analysis.is_incremental or stream_table.mode == "FULL" or not _is_captured(stream_table):
                return analysis
            time.sleep(pause_s)
        return analyze(self._connection, plain_query(stream_table.query))

    def _stop_reading(self, stream_table: StreamTable, analysis: Analysis) -> None:
        """A table that recomputes its query, as one that came with an upgrade may have to, holds no row in a buffer."""
        if fetch_known(self._connection, stream_table.relid).plan_epoch != stream_table.plan_epoch:
            # It was looked at while somebody altered what it names: that says nothing about its query.
            raise LockedError(
                f"what {stream_table.qualified} reads was altered meanwhile",
                hint="refresh it again; nothing was changed",
            )

        def stop() -> None:
            with fenced(self._connection, stream_table):
                self._connection.execute(
                    "UPDATE pgtrickle.pgt_dependencies SET is_captured = false WHERE pgt_id = %s", [stream_table.pgt_id]
                )
                remove_captures(self._connection, [dependency.relid for dependency in stream_table.dependencies])

        # First: who is killed between the two does both again.
        patiently(lambda: settle_columns(self._connection, stream_table, analysis.target.shape))
        patiently(stop)
