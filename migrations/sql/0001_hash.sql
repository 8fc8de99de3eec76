-- The functions of 0.2.0's library that the catalog and the capture functions call, with the same names,
-- arguments and values, in PL/pgSQL (baseline.md, "A source's objects"). Checked against xxHash itself by a property test.

CREATE OR REPLACE FUNCTION pgtrickle._xxh64(data bytea, seed bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
-- xxHash, 64 bits. Products and sums are taken as numeric modulo 2^64, since bigint refuses to wrap around.
DECLARE
    -- All bit operators bind equally tight in SQL, so each shift stands in parentheses.
    m CONSTANT numeric := 18446744073709551616;
    h CONSTANT numeric := 9223372036854775808;
    p1 CONSTANT numeric := 11400714785074694791;
    p2 CONSTANT numeric := 14029467366897019727;
    p3 CONSTANT numeric := 1609587929392839161;
    p4 CONSTANT numeric := 9650029242287828579;
    p5 CONSTANT numeric := 2870177450012600261;
    size CONSTANT bigint := length(data);
    at integer := 0;
    lane integer;
    n numeric;
    x bigint;
    acc bigint;
    v bigint[];
BEGIN
    IF size >= 32 THEN
        v := ARRAY[0, 0, 0, 0];
        FOR lane IN 1 .. 4 LOOP
            n := (seed + CASE lane WHEN 1 THEN p1 + p2 WHEN 2 THEN p2 WHEN 3 THEN 0 ELSE -p1 END) % m;
            v[lane] := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
        END LOOP;
        WHILE at + 32 <= size LOOP
            FOR lane IN 1 .. 4 LOOP
                x := get_byte(data, at)::bigint | (get_byte(data, at + 1)::bigint << 8)
                    | (get_byte(data, at + 2)::bigint << 16) | (get_byte(data, at + 3)::bigint << 24)
                    | (get_byte(data, at + 4)::bigint << 32) | (get_byte(data, at + 5)::bigint << 40)
                    | (get_byte(data, at + 6)::bigint << 48) | (get_byte(data, at + 7)::bigint << 56);
                n := (v[lane] + x * p2) % m;
                x := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
                x := (x << 31) | ((x >> 33) & 2147483647);
                n := (x * p1) % m;
                v[lane] := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
                at := at + 8;
            END LOOP;
        END LOOP;
        n := (((v[1] << 1) | ((v[1] >> 63) & 1))::numeric + ((v[2] << 7) | ((v[2] >> 57) & 127))
            + ((v[3] << 12) | ((v[3] >> 52) & 4095)) + ((v[4] << 18) | ((v[4] >> 46) & 262143))) % m;
        acc := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
        FOR lane IN 1 .. 4 LOOP
            n := (v[lane] * p2) % m;
            x := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
            x := (x << 31) | ((x >> 33) & 2147483647);
            n := (x * p1) % m;
            x := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
            n := ((acc # x) * p1 + p4) % m;
            acc := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
        END LOOP;
        n := (acc + size::numeric) % m;
    ELSE
        n := (seed + p5 + size) % m;
    END IF;
    acc := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;

    WHILE at + 8 <= size LOOP
        x := get_byte(data, at)::bigint | (get_byte(data, at + 1)::bigint << 8)
            | (get_byte(data, at + 2)::bigint << 16) | (get_byte(data, at + 3)::bigint << 24)
            | (get_byte(data, at + 4)::bigint << 32) | (get_byte(data, at + 5)::bigint << 40)
            | (get_byte(data, at + 6)::bigint << 48) | (get_byte(data, at + 7)::bigint << 56);
        n := (x * p2) % m;
        x := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
        x := (x << 31) | ((x >> 33) & 2147483647);
        n := (x * p1) % m;
        acc := acc # (CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END)::bigint;
        acc := (acc << 27) | ((acc >> 37) & 134217727);
        n := (acc * p1 + p4) % m;
        acc := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
        at := at + 8;
    END LOOP;
    IF at + 4 <= size THEN
        x := get_byte(data, at)::bigint | (get_byte(data, at + 1)::bigint << 8)
            | (get_byte(data, at + 2)::bigint << 16) | (get_byte(data, at + 3)::bigint << 24);
        n := (x * p1) % m;
        acc := acc # (CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END)::bigint;
        acc := (acc << 23) | ((acc >> 41) & 8388607);
        n := (acc * p2 + p3) % m;
        acc := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
        at := at + 4;
    END IF;
    WHILE at < size LOOP
        n := (get_byte(data, at) * p5) % m;
        acc := acc # (CASE WHEN n >= h THEN n - m ELSE n END)::bigint;
        acc := (acc << 11) | ((acc >> 53) & 2047);
        n := (acc * p1) % m;
        acc := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
        at := at + 1;
    END LOOP;

    acc := acc # ((acc >> 33) & 2147483647);
    n := (acc * p2) % m;
    acc := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
    acc := acc # ((acc >> 29) & 34359738367);
    n := (acc * p3) % m;
    acc := CASE WHEN n >= h THEN n - m WHEN n < -h THEN n + m ELSE n END;
    RETURN acc # ((acc >> 32) & 4294967295);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle.pg_trickle_hash(input text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    -- 0x517cc1b727220a95, the extension's seed.
    RETURN pgtrickle._xxh64(convert_to(input, 'UTF8'), 5871781006564002453);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle.pg_trickle_hash_multi(inputs text[]) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    value text;
    joined bytea := '';
    separator bytea := '';
BEGIN
    -- U+001E between the values; NULL is NUL N U L L NUL, which no text in PostgreSQL can hold.
    FOREACH value IN ARRAY inputs LOOP
        joined := joined || separator || coalesce(convert_to(value, 'UTF8'), '\x004e554c4c00');
        separator := '\x1e';
    END LOOP;
    RETURN pgtrickle._xxh64(joined, 5871781006564002453);
END
$function$;

CREATE OR REPLACE FUNCTION pgtrickle.parse_duration_seconds(input text) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
-- '90', '5m', '1h30m', '2d', '1w' in seconds; NULL for what is no duration. The two views call it.
DECLARE
    word CONSTANT text := btrim(input, E' \t\n\r\v\f');
BEGIN
    IF word ~ '^\+?[0-9]+$' THEN
        RETURN word::bigint;
    ELSIF word ~ '^([0-9]+[smhdw])+$' THEN
        RETURN (SELECT sum(part[1]::bigint * CASE part[2] WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600
                                             WHEN 'd' THEN 86400 ELSE 604800 END)
                FROM regexp_matches(word, '([0-9]+)([smhdw])', 'g') AS part);
    END IF;
    RETURN NULL;
EXCEPTION WHEN numeric_value_out_of_range THEN
    RETURN NULL;
END
$function$;
