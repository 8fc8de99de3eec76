"""Two databases of one server, one an engine: the same settings, each with its own tables of the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from psycopg import sql

from harness.bench.places import open_server
from harness.engines import (
    OURS,
    PG_TRICKLE,
    SERVER_SETTINGS,
    Engine,
    EngineRefusedError,
    Tables,
    choose_extension_installation,
    require_extension,
)
from harness.errors import EnvironmentMissingError
from harness.postgres import Node
from harness.postgres.administered import NodeDatabase
from harness.postgres.deadlines import DeadlineConnection
from harness.postgres.server import Server
from harness.trickle.names import stable_name

QUERY_CANCELED = "57014"
# What takes longer is measured once: it is no matter of noise.
LONG_S = 5.0
# What takes a few milliseconds is one, and costs nothing to measure more often.
_SHORT_TIMES = 3


@dataclass(frozen=True)
class Side:
    """An engine at work in a database of its own.

    Attributes:
        engine: which.
        node: its database.
        dsn: of the same.
        connection: autocommit; its statements are prepared at once.
        tables: its stream tables.
    """

    engine: Engine
    node: Node
    dsn: str
    connection: DeadlineConnection
    tables: Tables

    @property
    def name(self) -> str:
        """Of the engine."""
        return str(self.engine)

    @property
    def is_peer(self) -> bool:
        """Whether it is the public extension's."""
        return self.engine is PG_TRICKLE

    def buffer(self, table: str) -> sql.Identifier:
        """Where changes of a table in ``public`` are kept; both name it alike (D1)."""
        return sql.Identifier("pgtrickle_changes", f"changes_{stable_name('public', table)}")

    def limit(self, seconds: float | None) -> None:
        """The server ends each statement from here on that takes longer; None: none."""
        if seconds is None:
            self.connection.execute("RESET statement_timeout")
        else:
            self.connection.execute(
                sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{seconds * 1000:.0f}ms"))
            )

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """The server ends what takes longer inside the block.

        Raises:
            TooSlowError: it did.
        """
        self.limit(seconds)
        try:
            yield
        except EngineRefusedError as error:
            if error.sqlstate != QUERY_CANCELED:
                raise
            raise TooSlowError(seconds) from None
        finally:
            self.limit(None)


class TooSlowError(Exception):
    """It took longer than it was given; nothing was changed.

    Args:
        seconds: that it was given.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:.0f} s")
        self.seconds = seconds


def rounds_for(wanted: int, took_s: float | None, *, is_short: bool = False) -> int:
    """How many rounds a cell has.

    Args:
        wanted: of one that is quick.
        took_s: what the extension took in the warm-up, in seconds; None: it gave no answer, and is left out.
        is_short: all of it is a matter of milliseconds, what is done before included.
    """
    if is_short:
        return _SHORT_TIMES * wanted
    if took_s is None or took_s < 1:
        return wanted
    return min(wanted, 3) if took_s < LONG_S else 1


@dataclass(frozen=True)
class Sides:
    """Both engines on one server.

    Attributes:
        ours, peer: the two.
        version: of the extension.
    """

    ours: Side
    peer: Side
    version: str

    @property
    def both(self) -> tuple[Side, Side]:
        """In this order."""
        return (self.ours, self.peer)


@contextmanager
def open_sides() -> Iterator[Sides]:
    """Start a server that has the extension, and put each engine into a database of its own; destroyed after the block.

    Raises:
        EnvironmentMissingError: no PostgreSQL here has the extension.
    """
    installation = choose_extension_installation()
    with open_server(installation, settings=SERVER_SETTINGS) as place, ExitStack() as stack:
        if not isinstance(place.makes, Server):
            raise EnvironmentMissingError("the comparison needs a server of this machine")
        version = require_extension(place.makes)
        found: dict[Engine, Side] = {}
        for engine in (OURS, PG_TRICKLE):
            place.create_database(str(engine))
            own = place.of_database(str(engine))
            node = NodeDatabase(place.makes, str(engine), name=str(engine))
            stack.callback(node.close)
            engine.prepare(node)
            connection = stack.enter_context(own.connect())
            tables = stack.enter_context(engine.open(connection))
            found[engine] = Side(engine, node, own.dsn, connection, tables)
        yield Sides(found[OURS], found[PG_TRICKLE], version)
