"""Roles, owners and rights of a copy: what a dump refers to and does not bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from harness.rehearsal.source import Connection

# Every role that an object of this database belongs to or has a right from, and the bootstrap superuser, whose objects
# pg_shdepend does not list because it is pinned.
_ROLES = """
SELECT r.rolname::text, r.rolsuper, r.rolbypassrls, r.rolinherit
FROM pg_catalog.pg_roles r
WHERE r.rolname !~ '^pg_' AND (r.oid = 10 OR r.oid IN (
    SELECT s.refobjid FROM pg_catalog.pg_shdepend s
    WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass
      AND s.dbid IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())))
  OR r.oid IN (SELECT m.member FROM pg_catalog.pg_auth_members m)
  OR r.oid IN (SELECT m.roleid FROM pg_catalog.pg_auth_members m))
ORDER BY 1
"""
_MEMBERSHIPS = """
SELECT r.rolname::text, m.rolname::text
FROM pg_catalog.pg_auth_members a
JOIN pg_catalog.pg_roles r ON r.oid = a.roleid JOIN pg_catalog.pg_roles m ON m.oid = a.member
WHERE m.rolname !~ '^pg_' ORDER BY 1, 2
"""
# Owners and rights of what an extension owns are not in a dump that leaves the extension out.
_OWNERS = """
SELECT 'SCHEMA', n.nspname::text, NULL::text, pg_catalog.pg_get_userbyid(n.nspowner)::text, n.nspacl::text[]
FROM pg_catalog.pg_namespace n WHERE n.nspname IN ('pgtrickle', 'pgtrickle_changes')
UNION ALL
SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname::text, c.relname::text,
       pg_catalog.pg_get_userbyid(c.relowner)::text, c.relacl::text[]
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_trickle'
WHERE n.nspname = 'pgtrickle' AND c.relkind IN ('r', 'v', 'S')
"""
_GRANTS = """
SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END, a.privilege_type,
       a.is_grantable
FROM pg_catalog.aclexplode(%s::text[]::aclitem[]) a
"""
_WORDS = {
    "SCHEMA": sql.SQL("SCHEMA"),
    "TABLE": sql.SQL("TABLE"),
    "VIEW": sql.SQL("VIEW"),
    "SEQUENCE": sql.SQL("SEQUENCE"),
}
_PRIVILEGES = {
    "SELECT": sql.SQL("SELECT"),
    "INSERT": sql.SQL("INSERT"),
    "UPDATE": sql.SQL("UPDATE"),
    "DELETE": sql.SQL("DELETE"),
    "TRUNCATE": sql.SQL("TRUNCATE"),
    "REFERENCES": sql.SQL("REFERENCES"),
    "TRIGGER": sql.SQL("TRIGGER"),
    "MAINTAIN": sql.SQL("MAINTAIN"),
    "USAGE": sql.SQL("USAGE"),
    "CREATE": sql.SQL("CREATE"),
}


@dataclass(frozen=True)
class Role:
    """A role as far as it matters for who may see and write what."""

    name: str
    is_superuser: bool
    bypasses_rls: bool
    inherits: bool


@dataclass(frozen=True)
class Grant:
    """One right on one object; ``grantee`` None is PUBLIC."""

    grantee: str | None
    privilege: str
    is_grantable: bool


@dataclass(frozen=True)
class OwnedObject:
    """A schema, table, view or sequence of the extension: whose it is, and who may use it (None: default rights)."""

    kind: str
    schema: str
    name: str | None
    owner: str
    grants: tuple[Grant, ...] | None


def fetch_roles(conn: Connection) -> tuple[tuple[Role, ...], tuple[tuple[str, str], ...]]:
    """The roles that a copy of this database needs, and who is a member of whom (role, member)."""
    roles = tuple(Role(*row) for row in conn.execute(_ROLES))
    names = {role.name for role in roles}
    pairs = conn.execute(_MEMBERSHIPS).fetchall()
    return roles, tuple((role, member) for role, member in pairs if member in names)


def create_roles(conn: Connection, roles: Sequence[Role], memberships: Sequence[tuple[str, str]]) -> None:
    """Make the roles in the copy, where they are missing: without login and without password.

    Args:
        conn: a superuser of the copy.
        roles: from `fetch_roles`.
        memberships: from `fetch_roles`.
    """
    present = {name for (name,) in conn.execute("SELECT rolname::text FROM pg_catalog.pg_roles")}
    for role in roles:
        if role.name in present:
            continue
        conn.execute(
            sql.SQL("CREATE ROLE {} NOLOGIN {} {} {}").format(
                sql.Identifier(role.name),
                sql.SQL("SUPERUSER") if role.is_superuser else sql.SQL("NOSUPERUSER"),
                sql.SQL("BYPASSRLS") if role.bypasses_rls else sql.SQL("NOBYPASSRLS"),
                sql.SQL("INHERIT") if role.inherits else sql.SQL("NOINHERIT"),
            )
        )
    there = present | {role.name for role in roles}
    for role_name, member in memberships:
        if role_name in there and member in there:
            conn.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role_name), sql.Identifier(member)))


def fetch_owned(conn: Connection) -> tuple[OwnedObject, ...]:
    """Owners and rights of the extension's schemas, tables, views and sequences."""
    owned = []
    for kind, schema, name, owner, acl in conn.execute(_OWNERS).fetchall():
        grants = None if acl is None else tuple(Grant(*row) for row in conn.execute(_GRANTS, [acl]))
        owned.append(OwnedObject(kind, schema, name, owner, grants))
    return tuple(owned)


def give_back(conn: Connection, owned: Sequence[OwnedObject]) -> None:
    """Give the copy's catalog, made by the chain's first revision, the owners and rights that it has in the source."""
    for one in owned:
        subject = sql.SQL("{} {}").format(
            _WORDS[one.kind], sql.Identifier(one.schema, *([one.name] if one.name else []))
        )
        if one.kind != "SEQUENCE":  # a serial's sequence follows its table
            conn.execute(sql.SQL("ALTER {} OWNER TO {}").format(subject, sql.Identifier(one.owner)))
        if one.grants is None:
            continue
        target = subject if one.kind != "VIEW" else sql.Identifier(one.schema, one.name or "")
        for grant in one.grants:
            conn.execute(
                sql.SQL("GRANT {} ON {} TO {}{}").format(
                    _PRIVILEGES[grant.privilege],
                    target,
                    sql.SQL("PUBLIC") if grant.grantee is None else sql.Identifier(grant.grantee),
                    sql.SQL(" WITH GRANT OPTION") if grant.is_grantable and grant.grantee else sql.SQL(""),
                )
            )
