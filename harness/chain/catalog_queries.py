"""The queries of a catalog snapshot: each gives (subject, definition) of every object of one kind."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Every name is qualified, since search_path is empty while they run; '%%' is one per cent sign.
# A right that was never granted or revoked is written out (acldefault), so that GRANT and REVOKE of the same compare
# as nothing.
SYSTEM = (
    "n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> 'citus' AND n.nspname <> 'columnar'"
)
QUERIES: Mapping[str, str] = MappingProxyType(
    {
        "schema": """
            SELECT n.nspname, format('owner %%s, rights %%s', pg_get_userbyid(n.nspowner),
                   (SELECT array_agg(a::text ORDER BY a::text)
                    FROM unnest(coalesce(n.nspacl, acldefault('n', n.nspowner))) a))
            FROM pg_namespace n WHERE {system}""",
        "relation": """
            SELECT format('%%I.%%I', n.nspname, c.relname),
                   format('kind %%s, owner %%s, rights %%s, row security %%s/%%s, identity %%s, options %%s',
                   c.relkind, pg_get_userbyid(c.relowner),
                   (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(coalesce(c.relacl,
                        acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner))) a),
                   c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.reloptions)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE {system} AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')""",
        "column": """
            SELECT format('%%I.%%I.%%I', n.nspname, c.relname, a.attname),
                   format('%%s, not null %%s, default %%s, generated %%s, identity %%s, collation %%s, place %%s',
                   format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
                   a.attgenerated, a.attidentity, a.attcollation::regcollation,
                   (SELECT count(*) FROM pg_attribute b
                    WHERE b.attrelid = a.attrelid AND b.attnum BETWEEN 1 AND a.attnum AND NOT b.attisdropped))
            FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE {system} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped""",
        "constraint": """
            SELECT format('%%s %%I', k.conrelid::regclass, k.conname), pg_get_constraintdef(k.oid)
            FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            -- NOT NULL is a constraint since PostgreSQL 18; the column says it on 17 too.
            WHERE {system} AND k.contype <> 'n'""",
        "index": """
            SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
            FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE {system} AND c.relkind <> 't'""",
        "sequence": """
            SELECT format('%%I.%%I', n.nspname, c.relname),
                   format('%%s start %%s increment %%s min %%s max %%s cache %%s cycle %%s, owned by %%s',
                   format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
                   s.seqcache, s.seqcycle,
                   (SELECT format('%%s.%%I', d.refobjid::regclass, a.attname) FROM pg_depend d
                    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                    WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
            FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE {system}""",
        "view": """
            SELECT c.oid::regclass::text, pg_get_viewdef(c.oid)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE {system} AND c.relkind IN ('v', 'm')""",
        "function": """
            SELECT p.oid::regprocedure::text,
                   format('%%s owner %%s rights %%s', pg_get_functiondef(p.oid), pg_get_userbyid(p.proowner),
                   (SELECT array_agg(a::text ORDER BY a::text)
                    FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) a))
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE {system} AND p.prokind IN ('f', 'p')""",
        "trigger": """
            SELECT format('%%I on %%s', t.tgname, t.tgrelid::regclass),
                   format('%%s enabled %%s', pg_get_triggerdef(t.oid), t.tgenabled)
            FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE {system} AND NOT t.tgisinternal""",
        "event trigger": """
            SELECT e.evtname, format('%%s %%s %%s enabled %%s', e.evtevent, e.evttags, e.evtfoid::regproc, e.evtenabled)
            FROM pg_event_trigger e""",
        "extension": "SELECT e.extname, e.extversion FROM pg_extension e",
        "policy": """
            SELECT format('%%I on %%s', p.polname, p.polrelid::regclass),
                   format('%%s %%s using %%s check %%s', p.polcmd, p.polpermissive,
                   pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
            FROM pg_policy p""",
        "comment": """
            SELECT format('%%s %%s', i.type, i.identity), d.description
            FROM pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
            WHERE d.classoid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_namespace'::regclass,
                                 'pg_trigger'::regclass, 'pg_constraint'::regclass)
              AND i.schema IS DISTINCT FROM 'pg_catalog' AND i.schema IS DISTINCT FROM 'information_schema'
              AND i.identity !~ '^pg_catalog' AND d.objoid >= 16384""",
    }
)
