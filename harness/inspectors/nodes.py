"""`list_nodes`: every registered node, and whether it answers now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from harness.inspectors.contract import Cost, Envelope, Finding, Found, Inspector, Severity, Source
from harness.inspectors.inputs import Listing, flag
from harness.inspectors.session import Session

# citus_nodes calls a secondary a worker, and a stopped node active (inspectors.md): neither is taken from there.
# citus_check_cluster_node_health() is not called: N * N connections, and the other nodes do not keep to our timeout
# (9 s with one frozen node).
NODE_FACTS: LiteralString = """
    pg_catalog.json_build_object(
        'pg_version', pg_catalog.current_setting('server_version'),
        'citus_version', pg_catalog.current_setting('citus.version', true),
        'extension_version', (SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'citus'),
        'in_recovery', pg_catalog.pg_is_in_recovery())
"""
_PING: LiteralString = "SELECT pg_catalog.json_build_array({facts})"


@dataclass(frozen=True, kw_only=True)
class Inputs(Listing):
    """Whether the nodes are asked."""

    include_reachability: bool = flag(True, "ask every active primary: one connection to each")


@dataclass(frozen=True)
class Row:
    """One node.

    Attributes:
        role: ``primary`` or ``secondary``.
        role_order: 0 for a primary, 1 for a secondary.
        isactive: as the catalog has it; it stays true for a node that is down.
        isclone: whether it is a registered replica that may be promoted.
        reachable: whether it answered now; None where it was not asked.
        unreachable_reason: why it is not, or why it was not asked.
        pg_version, citus_version, extension_version: what the node says of itself; the library and the extension in
            this database may differ during an upgrade.
        in_recovery: whether it is a standby, which a primary must not be.
    """

    nodeid: int
    groupid: int
    nodename: str
    nodeport: int
    role: str
    role_order: int
    is_coordinator: bool
    isactive: bool
    hasmetadata: bool
    metadatasynced: bool
    shouldhaveshards: bool
    isclone: bool
    reachable: bool | None
    unreachable_reason: str | None
    pg_version: str | None
    citus_version: str | None
    extension_version: str | None
    in_recovery: bool | None


def _look(session: Session, inputs: Inputs) -> Found[Row]:
    said: dict[int, dict[str, Any]] = {}
    failed: dict[int, str] = {}
    if inputs.include_reachability:
        gathered = session.on_all_nodes(sql.SQL(_PING).format(facts=sql.SQL(NODE_FACTS)))
        said = {node.nodeid: facts for node, facts in gathered.rows}
        failed = {each.nodeid: each.reason for each in gathered.failed}
    rows = []
    for node in session.nodes:
        facts = said.get(node.nodeid, {})
        reachable = True if node.nodeid in said else False if node.nodeid in failed else None
        why = failed.get(node.nodeid)
        if reachable is None:
            asked = "not asked" if node.is_asked or not inputs.include_reachability else None
            why = asked or (f"not asked: it is {'not active' if not node.is_active else 'a ' + node.role}")
        rows.append(
            Row(
                nodeid=node.nodeid,
                groupid=node.groupid,
                nodename=node.host,
                nodeport=node.port,
                role=node.role,
                role_order=0 if node.role == "primary" else 1,
                is_coordinator=node.is_coordinator,
                isactive=node.is_active,
                hasmetadata=node.has_metadata,
                metadatasynced=node.is_metadata_synced,
                shouldhaveshards=node.should_have_shards,
                isclone=node.is_clone,
                reachable=reachable,
                unreachable_reason=why,
                pg_version=facts.get("pg_version"),
                citus_version=facts.get("citus_version"),
                extension_version=facts.get("extension_version"),
                in_recovery=facts.get("in_recovery"),
            )
        )
    return Found(rows, facts={"local_group": session.local_group})


def _severity(envelope: Envelope[Row]) -> Sequence[Finding]:
    found = []
    for row in envelope.rows:
        node = f"{row.nodename}:{row.nodeport}"
        if row.reachable is False:
            found.append(
                Finding(
                    rule="node_unreachable",
                    severity=Severity.ERROR,
                    scope="node",
                    target=node,
                    title="the node does not answer",
                    evidence=row.unreachable_reason or "",
                    suggestion="see whether its server runs and whether the coordinator can reach it",
                )
            )
        elif row.isactive and row.role == "primary" and not row.metadatasynced:
            found.append(
                Finding(
                    rule="node_not_synced",
                    severity=Severity.WARNING,
                    scope="node",
                    target=node,
                    title="the node's metadata is not up to date",
                    suggestion="SELECT start_metadata_sync_to_all_nodes()",
                )
            )
    return found


NODE_SOURCES = (
    Source(
        "pg_dist_node",
        (
            ("nodeid", "integer"),
            ("groupid", "integer"),
            ("nodename", "text"),
            ("nodeport", "integer"),
            ("hasmetadata", "boolean"),
            ("isactive", "boolean"),
            ("noderole", "noderole"),
            ("metadatasynced", "boolean"),
            ("shouldhaveshards", "boolean"),
            ("nodeisclone", "boolean"),
        ),
        note="there since 14: nodeisclone",
    ),
    Source("pg_dist_local_group", (("groupid", "integer"),)),
    Source("pg_extension", (("extname", "name"), ("extversion", "text"))),
    Source("pg_is_in_recovery", (("returns", "boolean"),), "function"),
    Source("citus.version", kind="setting"),
)
INSPECTOR = Inspector(
    name="list_nodes",
    summary="Every registered node: role, state in the catalog, whether it answers now, its versions",
    cost=Cost.FAN_OUT,
    least_role="any role",
    inputs=Inputs,
    row=Row,
    ordering=("groupid", "role_order", "nodeid"),
    volatile=frozenset(),
    sources=NODE_SOURCES,
    look=_look,
    severity=_severity,
)
