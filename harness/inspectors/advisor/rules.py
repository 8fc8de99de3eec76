"""The rules of the advisor: which inspector's answer each one judges, and what an answer that is missing means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.inspectors import registry
from harness.inspectors.contract import Envelope, Finding, Reason, Severity, Status, Unavailable

FOCUSES = ("skew", "ops", "metadata", "performance", "capacity")
# What is off by default in Citus and PostgreSQL: no fault, but somebody who looks for a cause should know.
_OFF = frozenset({Reason.GUC_OFF, Reason.PGSS_MISSING, Reason.NOT_PRELOADED})
# What is off, or was never installed: it is told, and makes no answer incomplete.
EXPECTED = frozenset({*_OFF, Reason.PGTRICKLE_MISSING})


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong.

    Attributes:
        name: ``Finding.rule``.
        source: the inspector whose answer says it.
        focus: what kind of trouble it is, of `FOCUSES`.
        check: what judges the answer, where the inspector's own ``severity`` does not.
    """

    name: str
    source: str
    focus: str
    check: Callable[[Envelope[Any]], Iterator[Finding]] | None = None


def _tracking_off(envelope: Envelope[Any]) -> Iterator[Finding]:
    if envelope.status is not Status.OK and envelope.reason in _OFF:
        yield Finding(
            rule="tracking_off",
            severity=Severity.INFO,
            scope="cluster",
            target=envelope.name,
            title="what this inspector reads is not tracked",
            evidence=envelope.message,
            suggestion="switch it on where it is needed: it costs a little on every query",
        )


def _role_may_write(envelope: Envelope[Any]) -> Iterator[Finding]:
    if envelope.readonly_enforced is False:
        yield Finding(
            rule="role_may_write",
            severity=Severity.INFO,
            scope="role",
            target="default_transaction_read_only",
            title="the role of this look may write on the nodes: only the inspectors' fixed text keeps it from that",
            suggestion="use the role of: harness inspect setup-role",
        )


# Not here: rebalance_suggested. Its plan needs USAGE on every schema, which the role of inspectors does not have.
RULES: tuple[Rule, ...] = (
    Rule("node_unreachable", "list_nodes", "ops"),
    Rule("node_not_synced", "list_nodes", "metadata"),
    Rule("role_may_write", "list_nodes", "ops", _role_may_write),
    Rule("node_skew", "shard_skew_report", "skew"),
    Rule("table_skew", "shard_skew_report", "skew"),
    Rule("shard_group_skew", "shard_skew_report", "skew"),
    Rule("stale_stats", "citus_table_stats", "performance"),
    Rule("index_drift", "table_inspector", "metadata"),
    Rule("missing_index_on_distribution_column", "table_inspector", "performance"),
    Rule("no_replica_identity", "table_inspector", "ops"),
    Rule("lock_wait", "citus_lock_inspector", "ops"),
    Rule("prepared_xact_pending", "citus_txn_inspector", "ops"),
    Rule("2pc_recovery_off", "citus_txn_inspector", "ops"),
    Rule("job_stalled", "citus_job_inspector", "ops"),
    Rule("job_failed", "citus_job_inspector", "ops"),
    Rule("cleanup_backlog", "citus_job_inspector", "ops"),
    Rule("orphan_node_group_cleanup", "citus_job_inspector", "metadata"),
    Rule("tenant_hot", "citus_tenant_hotspots", "skew"),
    Rule("pool_near_limit", "citus_pool_inspector", "capacity"),
    Rule("version_mismatch", "citus_drift_inspector", "metadata"),
    Rule("guc_drift", "citus_drift_inspector", "metadata"),
    Rule("unsafe_time_partitions_view", "citus_time_partitions_inspector", "ops"),
    Rule("ghost_placement", "citus_placement_integrity", "metadata"),
    Rule("inactive_placement", "citus_placement_integrity", "metadata"),
    Rule("orphan_relation", "citus_placement_integrity", "metadata"),
    # Each of its rules begins so: stream_table_error, stream_table_repair and so on.
    Rule("stream_table", "stream_table_inspector", "ops"),
    Rule("tracking_off", "citus_top_statements", "performance", _tracking_off),
    Rule("tracking_off", "citus_tenant_hotspots", "performance", _tracking_off),
    Rule("tracking_off", "citus_stats_dashboard", "performance", _tracking_off),
)
SOURCES: tuple[str, ...] = tuple(dict.fromkeys(rule.source for rule in RULES))


def findings_of(envelope: Envelope[Any]) -> tuple[Finding, ...]:
    """What of one inspector's answer a person must act on: what it says itself, and the rules about it here.

    Args:
        envelope: of any inspector; one that could not look has no rows, and still may be told about.
    """
    inspector = registry.get(envelope.name)
    found = list(envelope.findings or ())
    if envelope.findings is None and inspector.severity is not None:
        found += inspector.severity(envelope)
    for rule in RULES:
        if rule.source == envelope.name and rule.check is not None:
            found += rule.check(envelope)
    unique = {(each.rule, each.scope, each.target): each for each in reversed(found)}
    return tuple(reversed(unique.values()))


def is_judged(envelope: Envelope[Any]) -> bool:
    """Whether everything was seen that there is: what is only cut to fit into an answer has been judged before."""
    return envelope.status is Status.OK or envelope.reason is Reason.TOO_LARGE


def require_some(envelopes: Sequence[Envelope[Any]]) -> None:
    """What rests on other looks needs one of them at least.

    Raises:
        Unavailable: none could be made; with the reason of the first.
    """
    if all(each.status in (Status.UNAVAILABLE, Status.ERROR) for each in envelopes):
        first = envelopes[0]
        raise Unavailable(first.reason or Reason.INTERNAL, first.message)


def focus_of(rule: str) -> str:
    """What kind of trouble a rule is about; one that only its inspector knows is ``ops``."""
    return next((each.focus for each in RULES if rule == each.name or rule.startswith(f"{each.name}_")), "ops")
