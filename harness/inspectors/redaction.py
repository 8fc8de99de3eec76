"""What must not leave the cluster: literals in statements, tenants' names, passwords, several lines of an error."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from harness.logs import redact

CELL_CHARACTERS = 200
StatementMode = Literal["fingerprint", "truncated"]
# Statements whose text may be shown once its literals are gone; of all others only the command is, since what they
# have instead of literals may be a secret too (SET, CREATE USER MAPPING, COPY .. PROGRAM).
_SHOWN = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE"})
# What stands in double quotes right behind one of these words is a name. Everything else that PostgreSQL quotes may be
# somebody's data, with quotes in it that are not doubled: masked up to the line's last quote.
_NAMED = (
    "aggregate|attribute|collation|column|configuration|constraint|conversion|database|dictionary|domain|encoding"
    "|extension|function|host|host name|index|language|library|operator|parameter|parser|partition|policy|procedure"
    "|publication|relation|role|routine|rule|schema|sequence|server|server at|server on socket|statistics object"
    "|subscription|table|tablespace|template|trigger|type|user|view|wrapper"
)
# Quotes of other languages, in which a server may be told to speak, are masked too.
_SAID: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(\bKey \(.*?\)=|\brow contains )\((?:.*\)|.*)", re.IGNORECASE), r"\1(?)"),
    (
        re.compile(rf'(\b(?:{_NAMED}) "[^"]*")|"(?:.*"|.*)|[«»„“”「『\u2039\u203a].*', re.IGNORECASE),
        lambda m: m[1] or "?",
    ),
    (re.compile(r"'[^']*(?:'|\Z)"), "?"),
)
_WORD = re.compile(r"[A-Za-z_]+")
# First words of a statement of SQL, of one of the replication's, and of what autovacuum shows itself as. Any other
# first word is somebody's text that was sent by mistake.
_FIRST_WORDS = """
    ABORT ALTER ANALYSE ANALYZE BEGIN CALL CHECKPOINT CLOSE CLUSTER COMMENT COMMIT COPY CREATE DEALLOCATE DECLARE DELETE
    DISCARD DO DROP END EXECUTE EXPLAIN FETCH GRANT IMPORT INSERT LISTEN LOAD LOCK MERGE MOVE NOTIFY PREPARE REASSIGN
    REFRESH REINDEX RELEASE RESET REVOKE ROLLBACK SAVEPOINT SECURITY SELECT SET SHOW START TABLE TRUNCATE UNLISTEN
    UPDATE VACUUM VALUES WITH
    BASE_BACKUP CREATE_REPLICATION_SLOT DROP_REPLICATION_SLOT IDENTIFY_SYSTEM READ_REPLICATION_SLOT START_REPLICATION
    TIMELINE_HISTORY AUTOVACUUM
"""
_COMMANDS = frozenset(_FIRST_WORDS.split())
# One token of SQL that is no plain character. An end that is missing, as in a text that the server cut, is the end of
# the text: what began as a literal never shows. Whether a backslash before a quote keeps a plain literal open is up to
# the session's standard_conforming_strings, which we do not know: all that follows is taken for the literal.
_TOKEN = re.compile(
    r"""
      (?P<line>--[^\n]*)
    | (?P<escaped>\b[eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z))
    | (?P<quoted>(?:\b(?:[uU]&|[bBxXnN]))?'(?:[^'\\]|''|\\(?!'))*(?:'|\\'.*|\Z))
    | (?P<identifier>(?:\b[uU]&)?"(?:[^"]|"")*(?:"|\Z))
    | (?P<dollar>(?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z))
    | (?P<parameter>\$\d+)
    | (?P<number>(?<![\w$."])(?:0[xXoObB][0-9a-fA-F_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?))
    """,
    re.VERBOSE | re.DOTALL,
)


def mask_literals(text: str) -> str:
    """The same SQL with ``?`` for every string and number, without comments; identifiers stay, blanks are folded."""
    return " ".join(_TOKEN.sub(_mask, _without_block_comments(text)).split())


def _mask(match: re.Match[str]) -> str:
    kind = match.lastgroup
    if match["identifier"] is not None or match["parameter"] is not None:
        return match[0]
    return " " if match["line"] is not None or kind == "line" else "?"


def _without_block_comments(text: str) -> str:
    """Without ``/* .. */``, which nest; those inside a literal or a name are no comments."""
    kept: list[str] = []
    at = 0
    while at < len(text):
        if text.startswith("/*", at):
            at = _after_comment(text, at)
            kept.append(" ")
            continue
        token = _TOKEN.match(text, at)
        end = token.end() if token and token.end() > at else at + 1
        kept.append(text[at:end])
        at = end
    return "".join(kept)


def _after_comment(text: str, at: int) -> int:
    depth, at = 1, at + 2
    while depth and at < len(text):
        if text.startswith("/*", at):
            depth, at = depth + 1, at + 2
        elif text.startswith("*/", at):
            depth, at = depth - 1, at + 2
        else:
            at += 1
    return at


def command(text: str) -> str:
    """The first word of a statement in capitals, such as ``SELECT``; ``?`` for one of no SQL, empty where none is."""
    found = _WORD.match(_TOKEN.sub(_mask, _without_block_comments(text)).lstrip("( \t\r\n;"))
    word = found[0].upper() if found else ""
    return word if word in _COMMANDS or not word else "?"


def shorten(text: str, most: int = CELL_CHARACTERS) -> str:
    """At most ``most`` characters, the last one an ellipsis if something was cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class Redactor:
    """What is shown of what people wrote.

    Attributes:
        key: makes tenants' hashes unguessable; empty: tenants are not shown at all.
    """

    key: bytes = b""

    def statement(self, text: str | None, mode: StatementMode = "fingerprint") -> str | None:
        """What is shown of a statement: its command, or with ``truncated`` its text without literals and comments.

        Of a statement that is no query and no DML, only the command is ever shown.
        """
        if text is None:
            return None
        word = command(text)
        if mode == "fingerprint" or word not in _SHOWN:
            return word
        # What follows a semicolon may be of another kind.
        return shorten(mask_literals(text).partition(";")[0].strip())

    def tenant(self, value: str | None, *, colocation_id: int | None = None, is_revealed: bool = False) -> str | None:
        """A tenant as 16 hex digits that only the key can make; None without a key, or for no tenant.

        Args:
            value: the tenant's own name.
            colocation_id: mixed in: the same value in two groups is two tenants.
            is_revealed: show the name itself; only where a person asked for just that.
        """
        if value is None or is_revealed:
            return value
        if not self.key:
            return None
        return hmac.digest(self.key, f"{colocation_id}:{value}".encode(), "sha256").hex()[:16]

    def message(self, text: str | None) -> str:
        """The first line of what a server said, without passwords and values, at most 200 characters.

        What stands in double quotes stays where the word before them says that it is a name.
        """
        if not text or not text.strip():
            return ""
        line = redact(text.strip().splitlines()[0])
        for pattern, shown in _SAID:
            line = pattern.sub(shown, line)
        return shorten(line)
