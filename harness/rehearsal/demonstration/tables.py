"""The demonstration's 24 sources: what each is made of, what it is loaded with, and its own special changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from harness.rehearsal.tables import TableName


@dataclass(frozen=True)
class DemoTable:
    """One source of the demonstration.

    Attributes:
        table: its name.
        share: how many of a million rows are its own.
        create: the statements that make it, and the types and functions that it needs.
        load: one INSERT; ``%(rows)s`` is how many rows, ``%(seed)s`` varies the values.
        churn: changes that only this table shows, made after capture began.
    """

    table: TableName
    share: int
    create: LiteralString
    load: LiteralString
    churn: LiteralString = ""


# 63 bytes, dots, an umlaut and a snowman: its buffer's columns new_... and old_... are cut by the server.
LONG_NAME = "größe.of.the.longest.name.that.fits.in.sixty-three.bytes ☃"
LONG_NAME += "x" * (63 - len(LONG_NAME.encode()))
LONG_COLUMN = "spalte.mit.dem.längsten.namen.der.gerade.noch.hineinpasst ☃"
LONG_COLUMN += "y" * (63 - len(LONG_COLUMN.encode()))

SCHEMAS: LiteralString = 'CREATE SCHEMA demo; CREATE SCHEMA "Sales.EU";'

_PGBENCH = (
    DemoTable(
        TableName("public", "pgbench_branches"),
        3,
        "CREATE TABLE public.pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88))"
        " WITH (fillfactor=100)",
        "INSERT INTO public.pgbench_branches SELECT i, 0 FROM generate_series(1, %(rows)s::int) i",
    ),
    DemoTable(
        TableName("public", "pgbench_tellers"),
        30,
        "CREATE TABLE public.pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84))"
        " WITH (fillfactor=100)",
        "INSERT INTO public.pgbench_tellers SELECT i, (i - 1) / 10 + 1, 0 FROM generate_series(1, %(rows)s::int) i",
    ),
    DemoTable(
        TableName("public", "pgbench_accounts"),
        300_000,
        "CREATE TABLE public.pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))"
        " WITH (fillfactor=100)",
        "INSERT INTO public.pgbench_accounts SELECT i, (i - 1) / 100000 + 1, 0, ''"
        " FROM generate_series(1, %(rows)s::int) i",
    ),
    DemoTable(
        TableName("public", "pgbench_history"),
        40_000,
        "CREATE TABLE public.pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))",
        "INSERT INTO public.pgbench_history SELECT i %% 30 + 1, i %% 3 + 1, i %% 500, (i + %(seed)s::bigint) %% 100,"
        " timestamp '2026-01-01' FROM generate_series(1, %(rows)s::int) i",
    ),
)

_SHOP = (
    DemoTable(
        TableName("public", "customers"),
        50_000,
        """CREATE TABLE public.customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,
            region text NOT NULL, credit numeric(12,2) NOT NULL DEFAULT 0)""",
        "INSERT INTO public.customers (name, region, credit) SELECT 'customer ' || i, 'region ' || i %% 20, i %% 1000"
        " FROM generate_series(1, %(rows)s::int) i",
    ),
    DemoTable(
        TableName("public", "orders"),
        150_000,
        """CREATE TABLE public.orders (id bigserial PRIMARY KEY, customer int NOT NULL REFERENCES public.customers,
            status text NOT NULL, amount numeric(12,2) NOT NULL, ordered_at timestamptz NOT NULL);
        CREATE INDEX ON public.orders (customer)""",
        "INSERT INTO public.orders (customer, status, amount, ordered_at)"
        " SELECT i %% greatest(1, (%(rows)s::int / 3)) + 1, CASE WHEN i %% 7 = 0 THEN 'open' ELSE 'done' END,"
        " (i * 37 + %(seed)s::bigint) %% 10000 / 10.0, timestamptz '2026-01-01 00:00Z' + i * interval '1 minute'"
        " FROM generate_series(1, %(rows)s::int) i",
    ),
    DemoTable(
        TableName("demo", "order_lines"),
        203_000,
        """CREATE TABLE demo.order_lines (order_id bigint REFERENCES public.orders, line_no int, item int NOT NULL,
            price numeric(10,2), PRIMARY KEY (order_id, line_no))""",
        "INSERT INTO demo.order_lines SELECT (i - 1) / 4 + 1, (i - 1) %% 4 + 1, i %% 997, i %% 500 / 4.0"
        " FROM generate_series(1, %(rows)s::int) i",
    ),
    DemoTable(
        TableName("public", "stock"),
        10_000,
        """CREATE TABLE public.stock (item uuid PRIMARY KEY, shelf int NOT NULL, held int NOT NULL CHECK (held >= 0),
            UNIQUE (shelf) DEFERRABLE INITIALLY DEFERRED)""",
        "INSERT INTO public.stock SELECT md5(i::text)::uuid, i, i %% 90 FROM generate_series(1, %(rows)s::int) i",
        "UPDATE public.stock SET shelf = 21 - shelf WHERE shelf <= 20",
    ),
)

_PARTITIONED = (
    DemoTable(
        TableName("demo", "readings"),
        80_000,
        """CREATE TABLE demo.readings (device int, day date, reading double precision, note text,
            PRIMARY KEY (device, day)) PARTITION BY RANGE (day);
        CREATE TABLE demo.readings_old PARTITION OF demo.readings FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
        CREATE TABLE demo.readings_new PARTITION OF demo.readings FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)
            PARTITION BY HASH (device);
        CREATE TABLE demo.readings_new_0 PARTITION OF demo.readings_new FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE demo.readings_new_1 PARTITION OF demo.readings_new FOR VALUES WITH (MODULUS 2, REMAINDER 1)""",
        "INSERT INTO demo.readings SELECT i %% 400, date '2025-12-15' + i / 400, i / 8.0 FROM"
        " generate_series(1, %(rows)s::int) i",
        "UPDATE demo.readings SET day = day + 20000 WHERE device = 1 AND day < '2025-12-20'",
    ),
    DemoTable(
        TableName("demo", "events"),
        20_000,
        """CREATE TABLE demo.events (kind text, seen timestamptz, payload text) PARTITION BY LIST (kind);
        CREATE TABLE demo."events.ok" PARTITION OF demo.events FOR VALUES IN ('ok');
        CREATE TABLE demo.events_rest PARTITION OF demo.events DEFAULT""",
        "INSERT INTO demo.events SELECT CASE i %% 3 WHEN 0 THEN 'ok' WHEN 1 THEN 'bad' END, timestamptz '2026-05-01Z',"
        " 'p' || i %% 50 FROM generate_series(1, %(rows)s::int) i",
        "UPDATE demo.events SET kind = 'ok' WHERE kind = 'bad' AND payload = 'p7'",
    ),
)

_KEYLESS = (
    DemoTable(
        TableName("demo", "log_lines"),
        30_000,
        "CREATE TABLE demo.log_lines (level text, line text, code int)",
        "INSERT INTO demo.log_lines SELECT CASE WHEN i %% 5 > 0 THEN 'level ' || i %% 5 END, 'line ' || i %% 100,"
        " nullif(i %% 4, 0) FROM generate_series(1, %(rows)s::int) i",
        "DELETE FROM demo.log_lines WHERE ctid IN (SELECT ctid FROM demo.log_lines WHERE line = 'line 7' LIMIT 3)",
    ),
    DemoTable(
        TableName("demo", "nulls"),
        2_000,
        "CREATE TABLE demo.nulls (a int, b text, c date)",
        "INSERT INTO demo.nulls SELECT nullif(i %% 3, 0), CASE WHEN i %% 2 = 0 THEN '' END"
        " FROM generate_series(1, %(rows)s::int) i",
        "INSERT INTO demo.nulls VALUES (NULL, NULL, NULL), (NULL, NULL, NULL), (NULL, 'NULL', NULL), (NULL, '', NULL)",
    ),
)

_NAMES = (
    DemoTable(
        TableName("Sales.EU", "Order Lines"),
        20_000,
        '''CREATE TABLE "Sales.EU"."Order Lines" ("K ey" int PRIMARY KEY, "select" text, "Größe" numeric, "a.b" int,
            "say ""hi""" text, "per%cent" int)''',
        """INSERT INTO "Sales.EU"."Order Lines" SELECT i, 's' || i %% 10, i / 3.0, i %% 5, '"', i %% 100
            FROM generate_series(1, %(rows)s::int) i""",
    ),
    # its long names stand in for {long_name} and {long_column}: they are in no literal, so their bytes are counted once
    DemoTable(
        TableName("Sales.EU", LONG_NAME),
        5_000,
        'CREATE TABLE "Sales.EU".{long_name} (id int PRIMARY KEY, {long_column} text, "new_id" int, "old_id" int)',
        "INSERT INTO \"Sales.EU\".{long_name} SELECT i, 't' || i %% 8, i, -i FROM generate_series(1, %(rows)s::int) i",
    ),
)

_TYPES = (
    DemoTable(
        TableName("demo", "generated"),
        15_000,
        """CREATE TABLE demo.generated (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, w int NOT NULL,
            h int NOT NULL, area int GENERATED ALWAYS AS (w * h) STORED, label text)""",
        "INSERT INTO demo.generated (w, h, label) SELECT i %% 100, i %% 90, 'g' || i"
        " FROM generate_series(1, %(rows)s::int) i",
    ),
    DemoTable(
        TableName("demo", "moods"),
        10_000,
        """CREATE TYPE demo."Mood" AS ENUM ('fine', 'so-so', 'it''s bad');
        CREATE DOMAIN demo.email AS text CHECK (VALUE LIKE '%@%');
        CREATE DOMAIN demo.share AS numeric(5,2) CHECK (VALUE BETWEEN 0 AND 100);
        CREATE TABLE demo.moods (mail demo.email PRIMARY KEY, mood demo."Mood", part demo.share)""",
        """INSERT INTO demo.moods SELECT 'm' || i || '@example.org', (enum_range(NULL::demo."Mood"))[i %% 3 + 1],
            i %% 100 FROM generate_series(1, %(rows)s::int) i""",
    ),
    DemoTable(
        TableName("demo", "arrays"),
        10_000,
        """CREATE TYPE demo.pair AS (x int, y text);
        CREATE TABLE demo.arrays (id int PRIMARY KEY, numbers int[], words text[][], pair demo.pair,
            pairs demo.pair[])""",
        """INSERT INTO demo.arrays SELECT i, ARRAY[i, NULL, -i], ARRAY[['a', NULL], ['"', '{{}}']],
            (i, 'y,' || i)::demo.pair, ARRAY[(i, NULL)::demo.pair] FROM generate_series(1, %(rows)s::int) i""",
    ),
    DemoTable(
        TableName("demo", "documents"),
        10_000,
        "CREATE TABLE demo.documents (id int PRIMARY KEY, doc jsonb, raw json, at point, span tstzrange, bits bit(5),"
        " bytes bytea, address inet, lasted interval)",
        """INSERT INTO demo.documents SELECT i, jsonb_build_object('n', i, 'tags', ARRAY['a', 'b'], 'nothing', NULL),
            '{{"b":1, "a":  2}}', point(i, -i), tstzrange('2026-01-01Z', NULL), B'10110', '\\x00ff',
            '10.0.0.1', '1 month -1 day' FROM generate_series(1, %(rows)s::int) i""",
    ),
    DemoTable(
        TableName("demo", "measures"),
        15_000,
        "CREATE TABLE demo.measures (id int PRIMARY KEY, exact numeric, rounded numeric(8,3), approx double precision,"
        " small real)",
        """INSERT INTO demo.measures SELECT i, CASE i %% 50 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' ELSE i / 7.0 END,
            i %% 1000 / 8.0, CASE i %% 60 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' WHEN 2 THEN '-Infinity' ELSE i / 7.0 END,
            i / 3.0 FROM generate_series(1, %(rows)s::int) i""",
        "UPDATE demo.measures SET exact = 'NaN', approx = 'NaN' WHERE id <= 5;"
        " UPDATE demo.measures SET exact = 1.50 WHERE exact = 'NaN' AND id <= 60",
    ),
    DemoTable(
        TableName("demo", "dropped"),
        10_000,
        """CREATE TABLE demo.dropped (gone_first int, id int PRIMARY KEY, gone text, kept text);
        ALTER TABLE demo.dropped DROP COLUMN gone_first, DROP COLUMN gone, ADD COLUMN later int DEFAULT 7""",
        "INSERT INTO demo.dropped (id, kept) SELECT i, 'k' || i FROM generate_series(1, %(rows)s::int) i",
    ),
    DemoTable(
        TableName("demo", "texts"),
        400,
        "CREATE TABLE demo.texts (id int PRIMARY KEY, title text, body text);"
        " ALTER TABLE demo.texts ALTER COLUMN body SET STORAGE EXTERNAL",
        "INSERT INTO demo.texts SELECT i, 't' || i, repeat(md5(i::text), 700) FROM generate_series(1, %(rows)s::int) i",
        "UPDATE demo.texts SET title = title || '!' WHERE id <= 20",
    ),
)

_GUARDED = (
    DemoTable(
        TableName("demo", "secrets"),
        10_000,
        """CREATE TABLE demo.secrets (id int PRIMARY KEY, owner name NOT NULL, secret text);
        ALTER TABLE demo.secrets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY own_only ON demo.secrets USING (owner = current_user)""",
        "INSERT INTO demo.secrets SELECT i, 'somebody', 's' || i FROM generate_series(1, %(rows)s::int) i",
    ),
    DemoTable(
        TableName("demo", "audited"),
        10_000,
        """CREATE TABLE demo.audited (id serial PRIMARY KEY, price numeric, changed_at timestamptz);
        CREATE TABLE demo.audit_log (id int, price numeric);
        CREATE FUNCTION demo.stamp() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.changed_at := clock_timestamp(); RETURN NEW; END';
        CREATE FUNCTION demo.write_down() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO demo.audit_log VALUES (NEW.id, NEW.price); RETURN NULL; END';
        CREATE TRIGGER a_stamp BEFORE UPDATE ON demo.audited FOR EACH ROW EXECUTE FUNCTION demo.stamp();
        CREATE TRIGGER z_write_down AFTER INSERT ON demo.audited FOR EACH ROW EXECUTE FUNCTION demo.write_down()""",
        "INSERT INTO demo.audited (price) SELECT i %% 300 FROM generate_series(1, %(rows)s::int) i",
        "UPDATE demo.audited SET price = price + 1 WHERE id <= 30",
    ),
    # truncated after its last refresh: what it held is gone, so its stream table cannot be checked at its frontier
    DemoTable(
        TableName("demo", "staging"),
        2_567,
        "CREATE TABLE demo.staging (batch int, item text)",
        "INSERT INTO demo.staging SELECT i %% 3, 'i' || i FROM generate_series(1, %(rows)s::int) i",
        "TRUNCATE demo.staging; INSERT INTO demo.staging SELECT 9, 'again ' || i FROM generate_series(1, 50) i",
    ),
)

# A referenced table comes before the one that refers to it, so that the first few can be made alone.
TABLES = (*_PGBENCH, *_SHOP, *_PARTITIONED, *_KEYLESS, *_NAMES, *_TYPES, *_GUARDED)
