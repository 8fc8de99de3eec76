"""What is shown of statements, tenants and messages; literals never, whatever they are written as."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.inspectors.redaction import Redactor, command, mask_literals, shorten

_SECRET = "Xsecretx"  # noqa: S105 - the word that must not show


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("select 1", "select ?"),
        ("select 'a''b', E'a\\'b', \"It's\" from t1 where c2 = 3.5e-7", 'select ?, ?, "It\'s" from t1 where c2 = ?'),
        ("select $1, $2::text, $$a'b$$, $q$ $$ $q$", "select $1, $2::text, ?, ?"),
        ("select U&'d\\0061t', B'01', x'1f', N'n', U&\"d\"", 'select ?, ?, ?, ?, U&"d"'),
        ("select 1 -- 'x\n+ 2 /* 'a /* b */ c' */ + 3", "select ? + ? + ?"),
        ("select '/* no comment */', \"/* nor */\"", 'select ?, "/* nor */"'),
        ('select a$1b, _1, t.c1 from "t 1"', 'select a$1b, _1, t.c1 from "t 1"'),
        ("select 'cut by the serv", "select ?"),
        ("select E'cut\\", "select ?"),
        ("select $tag$ cut by", "select ?"),
        ("select 1 /* cut by", "select ?"),
        ("select 0x1F, 1_000, .5, 5.", "select ?, ?, ?, ?"),
        ("select -1", "select -?"),
        ("select 'a\\d', 'b\\\\c', 2", "select ?, ?, ?"),
        # With standard_conforming_strings off the literal goes on; we cannot know.
        ("select 'a\\' cut, 'b'", "select ?"),
    ],
)  # fmt: skip
def test_literals_and_comments_are_masked_and_names_stay(text: str, masked: str) -> None:
    assert mask_literals(text) == masked


_LITERALS = st.sampled_from(
    [
        "'{}'",
        "E'{}'",
        "e'\\'{}'",
        "$${}$$",
        "$x${}$x$",
        "U&'{}'",
        "'a''{}'",
        "/*{}*/",
        "--{}\n",
        "N'{}'",
        "'\\', '{}'",
        "'\\'{}'",
    ]
)


@given(st.lists(st.one_of(st.sampled_from(["select", " ", "a", ",", '"q"', "(", "$1", "\n", "1"]), _LITERALS)))
def test_no_literal_shows_whatever_stands_around_it(parts: list[str]) -> None:
    text = " ".join(parts).replace("{}", _SECRET)
    assert _SECRET not in mask_literals(text)
    assert _SECRET not in mask_literals(text[: text.find(_SECRET) + len(_SECRET)] if _SECRET in text else text)


@pytest.mark.parametrize(
    "text",
    [
        f"CREATE ROLE a PASSWORD '{_SECRET}'",
        f"SET app.key = {_SECRET}",
        f"COPY t FROM PROGRAM 'curl {_SECRET}'",
        f"/* {_SECRET} */ ALTER USER MAPPING FOR a SERVER s OPTIONS (SET password '{_SECRET}')",
        f"SELECT 1; SET app.key = {_SECRET}",
        f"DO $$ {_SECRET} $$",
        _SECRET,
        f"{_SECRET}; SELECT 1",
    ],
)
def test_what_is_no_query_shows_its_command_only(text: str) -> None:
    for mode in ("fingerprint", "truncated"):
        shown = Redactor().statement(text, mode)
        assert shown is not None
        assert _SECRET not in shown


def test_command_is_the_first_word_behind_comments() -> None:
    assert command('/*{"cId":3,"tId":"7"}*/ -- x\n  (select 1)') == "SELECT"
    assert command("") == command("'x'") == ""
    assert command("autovacuum: VACUUM public.t") == "AUTOVACUUM"


def test_first_word_that_is_no_command_is_not_shown() -> None:
    """A password that was sent to the server by mistake is a statement for it, and stands in pg_stat_activity."""
    assert command(_SECRET) == command(f"{_SECRET} SELECT") == command("selectx 1") == "?"


def test_tenant_is_a_hash_of_key_group_and_name() -> None:
    redactor = Redactor(b"k")
    assert redactor.tenant("7", colocation_id=1) == redactor.tenant("7", colocation_id=1)
    others = {redactor.tenant("7", colocation_id=2), redactor.tenant("8", colocation_id=1), Redactor(b"l").tenant("7")}
    assert len(others | {redactor.tenant("7", colocation_id=1)}) == 4
    assert Redactor().tenant("7") is None
    assert redactor.tenant(None) is None
    assert Redactor().tenant("7", is_revealed=True) == "7"


def test_message_is_one_line_without_values_and_passwords() -> None:
    said = Redactor().message(
        f"ERROR: invalid value '{_SECRET}' for column \"c\" at postgresql://u:{_SECRET}@h/d password={_SECRET}\n"
        f"{_SECRET}"
    )
    assert _SECRET not in said
    assert '"c"' in said
    assert Redactor().message(None) == Redactor().message(" ") == ""
    assert len(Redactor().message("x" * 1000)) == 200


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('invalid input syntax for type integer: "{}"', "invalid input syntax for type integer: ?"),
        ('malformed array literal: "{}"', "malformed array literal: ?"),
        ('invalid input value for enum mood: "{}"', "invalid input value for enum mood: ?"),
        ('value "{}" is out of range for type integer', "value ? is out of range for type integer"),
        # PostgreSQL doubles no quote in what it quotes.
        ('invalid input syntax for type integer: "a" of table "{}" b"', "invalid input syntax for type integer: ?"),
        ("malformed array literal: \"a\" and '{}'", "malformed array literal: ? and ?"),
        ("malformed array literal: \"O'{}", "malformed array literal: ?"),
        ("ungültige Eingabesyntax für Typ integer: »{}«", "ungültige Eingabesyntax für Typ integer: ?"),
        (
            'duplicate key value violates unique constraint "t_pkey": Key (id, lower(n))=(1, {} (b)) already exists.',
            'duplicate key value violates unique constraint "t_pkey": Key (id, lower(n))=(?) already exists.',
        ),
        ("Key (id)=({} cut", "Key (id)=(?)"),
        (
            'null value in column "c" of relation "t 1": Failing row contains (1, {}, null).',
            'null value in column "c" of relation "t 1": Failing row contains (?).',
        ),
        ("Partition key of the failing row contains (a) = ({}).", "Partition key of the failing row contains (?)."),
    ],
)
def test_value_in_a_message_is_masked_whatever_quotes_it(text: str, shown: str) -> None:
    said = Redactor().message(text.replace("{}", _SECRET))
    assert said == shown


@pytest.mark.parametrize(
    "text",
    [
        'relation "t 1" does not exist',
        'column "c" of relation "t" has no index "i", says role "r" in database "d"',
        'connection to server at "127.0.0.1", port 1 failed: FATAL:  database "x" does not exist',
        'connection to server on socket "/tmp/.s.PGSQL.5432" failed: no such file',
        'unrecognized configuration parameter "citus.none"',
    ],
)
def test_name_in_a_message_stays(text: str) -> None:
    assert Redactor().message(text) == text


def test_cell_is_cut_with_a_mark() -> None:
    assert shorten("x" * 200) == "x" * 200
    assert shorten("x" * 201) == "x" * 199 + "…"
