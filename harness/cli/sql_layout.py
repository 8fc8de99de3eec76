"""SQL in lines that can be read: the words stay as they are, only the space between them changes."""

from __future__ import annotations

import re

INDENT = "  "
# Deeper than this nobody follows an indent, and lines would run out of the screen.
_DEEPEST = 12
# A string, a quoted name, a dollar-quoted text, a comment to the end of its line, or a block comment: never touched.
_TOKEN = re.compile(
    r"(?P<kept>E?'(?:[^'\\]|''|\\.)*'|\"(?:[^\"]|\"\")*\"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|/\*.*?\*/|--[^\n]*\n?)"
    r"|(?P<space>\s+)|(?P<word>\w+)|(?P<other>.)",
    re.DOTALL,
)
# A line begins before these, where they begin a clause.
_STARTERS = frozenset(
    {"SELECT", "WITH", "FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "UNION", "EXCEPT", "INTERSECT"}
    | {"JOIN", "LEFT", "RIGHT", "FULL", "CROSS", "INNER", "USING", "VALUES", "RETURNING", "WHEN", "SET"}
)
_JOINING = frozenset(["LEFT", "RIGHT", "FULL", "CROSS", "INNER", "OUTER"])
# After these a starter goes on with what was begun: DELETE FROM, IS DISTINCT FROM, WITHIN GROUP.
_KEEPS_ON = frozenset({("DELETE", "FROM"), ("DISTINCT", "FROM"), ("WITHIN", "GROUP")})


def laid_out(statement: str) -> str:
    """The statement with line ends before its clauses, indented by its parentheses; as it is if it has lines already.

    Args:
        statement: any SQL.
    """
    text = statement.strip()
    if "\n" in text:
        return text
    return _Layout().lay_out(text)


class _Layout:
    """One statement's pieces as they come."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        # For each open parenthesis, whether a query is in it: only those are worth lines of their own.
        self._open: list[bool] = []
        self._last_word = ""
        self._case_depth = 0

    def lay_out(self, text: str) -> str:
        for match in _TOKEN.finditer(text):
            if match["space"]:
                self._space()
            elif match["word"]:
                self._word(match["word"])
            elif match["other"]:
                self._other(match["other"])
            else:
                self._pieces.append(match["kept"])
                self._last_word = ""
        return "".join(self._pieces)

    def _space(self) -> None:
        if self._pieces and not self._pieces[-1].endswith((" ", "\n")):
            self._pieces.append(" ")

    def _word(self, word: str) -> None:
        upper = word if word.isupper() else ""
        if upper in _STARTERS and self._begins(upper):
            self._break()
        if upper == "CASE":
            self._case_depth += 1
        elif upper == "END":
            self._case_depth = max(0, self._case_depth - 1)
        self._pieces.append(word)
        self._last_word = upper

    def _begins(self, word: str) -> bool:
        before = self._pieces[-1] if self._pieces else ""
        if not self._pieces or (self._open and not self._open[-1] and word not in {"SELECT", "WITH"}):
            return False
        if word == "WHEN" and self._case_depth:
            return False
        if word in {"SELECT", "WITH"} and self._open and before == "(":
            self._open[-1] = True
            return True
        if word == "JOIN" and self._last_word in _JOINING:
            return False
        return (self._last_word, word) not in _KEEPS_ON and before in {" ", ")"} and word != "WITH"

    def _other(self, char: str) -> None:
        if char == "(":
            self._open.append(False)
        elif char == ")" and self._open and self._open.pop():
            self._break()
        self._pieces.append(char)
        if char == ")":
            self._last_word = ""

    def _break(self) -> None:
        if self._pieces and self._pieces[-1] == " ":
            self._pieces.pop()
        depth = min(sum(self._open), _DEEPEST)
        self._pieces.append("\n" + INDENT * depth)
