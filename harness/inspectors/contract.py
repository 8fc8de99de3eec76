"""What every inspector is and answers: its description, its rows, and the envelope around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Literal

from typing_extensions import TypeVar

if TYPE_CHECKING:
    from harness.inspectors.inputs import Listing
    from harness.inspectors.session import Session

InputsT = TypeVar("InputsT", bound="Listing", default="Listing")
RowT_co = TypeVar("RowT_co", covariant=True, default=Any)
# What a row, a fact or an input is made of.
Scalar = str | int | float | bool | None


class Cost(StrEnum):
    """What a look costs the cluster."""

    CATALOG = "catalog"
    """The coordinator's catalogs, and nothing else."""
    FAN_OUT = "fan_out"
    """One connection to each node as well."""
    SIZES = "sizes"
    """As `FAN_OUT`, and sizes of relations: it may wait for a lock, as long as ``lock_timeout``."""
    SUM = "sum"
    """The results of other inspectors."""


class Status(StrEnum):
    """How a look ended."""

    OK = "ok"
    PARTIAL = "partial"
    UNAVAILABLE = "unavailable"
    ERROR = "error"


class Reason(StrEnum):
    """Why a look is not complete."""

    CITUS_MISSING = "citus_missing"
    PGSS_MISSING = "pgss_missing"
    PGTRICKLE_MISSING = "pgtrickle_missing"
    NOT_PRELOADED = "not_preloaded"
    GUC_OFF = "guc_off"
    INSUFFICIENT_PRIVILEGE = "insufficient_privilege"
    LOCK_TIMEOUT = "lock_timeout"
    STATEMENT_TIMEOUT = "statement_timeout"
    NODE_UNREACHABLE = "node_unreachable"
    NODE_FAILED = "node_failed"
    """A node was reached and did not do it; ``FailedNode.reason`` has its words."""
    NOT_COORDINATOR = "not_coordinator"
    UNSAFE_SOURCE = "unsafe_source"
    UNSUPPORTED_VERSION = "unsupported_version"
    NOT_FOUND = "not_found"
    INPUT_INCOMPLETE = "input_incomplete"
    """An inspector that this one rests on was partial or unavailable."""
    TOO_LARGE = "too_large"
    """A row, or lists in it, did not fit into an answer; ``warnings`` say how much."""
    SERVER_GONE = "server_gone"
    """The connection to the coordinator was lost."""
    INTERNAL = "internal"
    """A mistake of ours, or an error of the server that nobody foresaw."""


class Unavailable(Exception):  # noqa: N818 - it is no error: the answer is that there is no answer
    """A look finds that it cannot see; `harness.inspectors.run` makes an envelope of it.

    Args:
        reason: why, for machines.
        message: why and what to do, for people; one line, nothing of a caller's data in it.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Source:
    """One object of the server that an inspector reads.

    Attributes:
        relation: its name. A function is named without its arguments.
        columns: (name, type as ``format_type`` spells it) of every column that is used; of a function its results, in
            ``returns`` for one that has no names; of a setting empty.
        kind: what it is.
        schema: where it lives; empty where that differs between installations (it is found through ``pg_depend``).
        note: what is good to know about it.
    """

    relation: str
    columns: tuple[tuple[str, str], ...] = ()
    kind: Literal["relation", "function", "setting"] = "relation"
    schema: str = "pg_catalog"
    note: str = ""


@dataclass(frozen=True)
class FailedNode:
    """A node that did not answer. ``reason`` begins with a `Reason`, then its words, redacted."""

    nodeid: int
    node: str
    reason: str


@dataclass(frozen=True)
class Nodes:
    """Which nodes were asked, as ``host:port``, in the order of their groups."""

    asked: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()
    failed: tuple[FailedNode, ...] = ()


@dataclass(frozen=True)
class Found(Generic[RowT_co]):
    """What a look found, before it is sorted and cut.

    Attributes:
        rows: all of them, in any order.
        reason: set where something is missing: the status becomes ``partial``.
        message: what is missing, for people.
        warnings: what is good to know, each one line.
        facts: values of the cluster as a whole, beside the rows.
        findings: what a person should act on; None: as the inspector's ``severity`` judges the rows.
    """

    rows: Sequence[RowT_co]
    reason: Reason | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] | None = None


@dataclass(frozen=True)
class Envelope(Generic[RowT_co]):
    """An inspector's answer.

    Attributes:
        name: of the inspector.
        status: how it ended. An empty list with ``ok`` means that the sources were read and had nothing.
        reason: why it is not ``ok``; None if it is.
        message: the same for people; empty if it is ``ok``.
        rows: sorted by ``ordering`` and cut.
        truncated: whether there are more, by ``row_limit`` or by the size of the answer.
        row_limit: how many rows were asked for at most.
        next_cursor: what to give as ``cursor`` for the rows after these; None at the end.
        nodes: which nodes were asked.
        warnings: what is good to know, and what the server warned of.
        ordering: fields of the total order; ``-`` in front: descending.
        volatile: fields of rows, and of facts, that change between two looks at an unchanged cluster.
        facts: values of the cluster as a whole.
        readonly_enforced: whether every node that was asked said that the role's default is read-only; None where
            that was not looked at.
        findings: what of all rows, those that are cut too, a person should act on; no part of the document. None: the
            rows here were not judged yet.
    """

    name: str
    status: Status
    reason: Reason | None = None
    message: str = ""
    rows: tuple[RowT_co, ...] = ()
    truncated: bool = False
    row_limit: int = 0
    next_cursor: str | None = None
    nodes: Nodes = field(default_factory=Nodes)
    warnings: tuple[str, ...] = ()
    ordering: tuple[str, ...] = ()
    volatile: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    readonly_enforced: bool | None = None
    findings: tuple[Finding, ...] | None = field(default=None, compare=False, repr=False, metadata={"is_shown": False})

    def document(self) -> dict[str, Any]:
        """The envelope as what ``json.dumps`` takes: the same fields in the same order."""
        found: dict[str, Any] = asdict(self)
        found["rows"] = list(found["rows"])
        found["facts"] = dict(self.facts)
        del found["findings"]
        return found


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Somebody must act: `harness inspect` ends with exit code 1."""
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """What of an answer a person should know first.

    Attributes:
        rule: a stable word for machines, such as ``node_unreachable``.
        severity: how bad it is.
        scope: what kind of thing it is about: ``cluster``, ``node``, ``table``, ``shard``, ``role``, ...
        target: which one; without measured values, so that it is the same in the next look.
        title: what is wrong, one line.
        evidence: the figures that say so, rounded.
        suggestion: what to do.
    """

    rule: str
    severity: Severity
    scope: str
    target: str
    title: str
    evidence: str = ""
    suggestion: str = ""


@dataclass(frozen=True)
class Inspector(Generic[InputsT, RowT_co]):
    """One inspector.

    Attributes:
        name: as on the command line and over MCP.
        summary: one line for people.
        cost: what a look costs the cluster.
        least_role: the least rights with which its answer is complete, for people.
        inputs: the dataclass of its inputs, declared with `harness.inspectors.inputs`.
        row: the dataclass of its rows.
        ordering: a total order: fields of the row, the last ones a unique key; ``-value`` is descending; NULLs come
            last, text goes by its UTF-8 bytes.
        volatile: fields of rows and facts that change between two looks at an unchanged cluster.
        sources: everything that it reads.
        look: what looks: at most one fan-out, and no statement that is not a literal of ours.
        severity: what of an answer a person should act on; None: nothing ever is.
        needs_citus: whether there is nothing to see without Citus.
    """

    name: str
    summary: str
    cost: Cost
    least_role: str
    inputs: type[InputsT]
    row: type[RowT_co]
    ordering: tuple[str, ...]
    volatile: frozenset[str]
    sources: tuple[Source, ...]
    look: Callable[[Session, InputsT], Found[RowT_co]]
    severity: Callable[[Envelope[RowT_co]], Sequence[Finding]] | None = None
    needs_citus: bool = True
